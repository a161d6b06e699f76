"""The page in a real browser: every control, at three widths, by mouse and by keyboard."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (browser.CHROMIUM and browser.DRIVER),
        reason="needs chromium and chromedriver (Debian: chromium chromium-driver)",
    ),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(params=[(1280, False), (768, True), (375, False)], ids=["desk", "tablet", "phone"])
def view(opened, page, request):
    opened.resize(request.param[0], 900, dark=request.param[1])
    opened.open(page)
    yield opened
    assert opened.log() == []  # no error, and nothing blocked


def text(view, selector):
    return view.run("return document.querySelector(arguments[0]).textContent", selector)


def spot(view, number):
    """Where code `number` is drawn, in the window; None without its canvas in sight."""
    return view.run(
        "const c = document.querySelector('canvas'); c.scrollIntoView({block: 'center'});"
        "const e = JSON.parse(document.getElementById('data').textContent).explorers[0];"
        "const b = c.getBoundingClientRect(), s = c.clientWidth, p = e.points[arguments[0]];"
        "return [b.left + 14 + p[0] * (s - 28), b.top + 14 + (1 - p[1]) * (s - 28)];",
        number,
    )


def explorer(view):
    return view.run("return JSON.parse(document.getElementById('data').textContent).explorers[0]")


def test_the_page_fits_its_window_and_strings_stay_strings(view):
    wide, window = view.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window
    assert "onerror" in text(view, "h1")
    assert view.run("return document.title").startswith("run <img")
    assert view.run("return document.images.length") == 0
    assert view.run("return performance.getEntriesByType('resource').length") == 0
    small = view.run(
        "return [...document.querySelectorAll('.chart text')].filter(t => t.textContent)"
        ".map(t => t.getBoundingClientRect().height).reduce((a, b) => Math.min(a, b))"
    )
    assert small > 8  # pixels: legible


def test_dark_and_light(view):
    seen = (
        "return [getComputedStyle(document.body).backgroundColor,"
        " ...['text', 'use'].map(t => document.querySelector('.chart svg ' + t))"
        " .flatMap(n => [getComputedStyle(n).fill, getComputedStyle(n).stroke])]"
    )
    before = view.run(seen)
    view.run("document.getElementById('theme').click()")
    after = view.run(seen)
    assert [x != y for x, y in zip(before, after, strict=True)] == [True, True, False, False, True]
    view.run("document.getElementById('theme').click()")
    assert view.run(seen) == before


def test_grids_show_the_nearest_image_by_mouse_and_keyboard(view):
    view.run("document.querySelector('.grid-of').scrollIntoView({block: 'center'})")
    box = view.run(
        "const b = document.querySelectorAll('.grid-of button')[5].getBoundingClientRect();"
        "return [b.left + 5, b.top + 5]"
    )
    view.drag(box)
    assert text(view, ".gallery .pair figcaption") == "sample 6"
    view.run("document.querySelectorAll('.grid-of button')[5].focus()")
    view.press("right", "down")
    assert text(view, ".gallery .pair figcaption") == "sample 15"
    places = view.run(
        "return [...document.querySelectorAll('.gallery .pair .tile')].slice(0, 2)"
        ".map(t => t.style.backgroundPosition)"
    )
    assert places[0] == places[1]


def test_a_click_selects_a_point(view):
    given = explorer(view)
    number = given["anchors"][-1]
    view.drag(spot(view, number))
    assert given["classes"][given["labels"][number]] in text(view, "[data-details] h3")
    position = view.run(
        "return document.querySelector('[data-details] .tile').style.backgroundPosition"
    )
    columns = given["thumbs"]["columns"]
    assert (
        position.split()[0] == f"{100 * (number % columns) / (columns - 1):g}%" or "." in position
    )
    first = given["near"][number][0]
    view.run("document.querySelector('.near button').click()")
    assert given["classes"][given["labels"][first]] in text(view, "[data-details] h3")


def test_a_drag_shows_both_paths_and_the_slider_walks_them(view):
    given = explorer(view)
    modes = [given["modes"][a] for a in given["anchors"]]
    start, end = given["anchors"][modes.index(0)], given["anchors"][modes.index(1)]
    a, b = spot(view, start), spot(view, end)
    view.drag(a, ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2), b)
    assert "→" in text(view, "[data-path] h3")
    assert "jumps" in text(view, "[data-path]")
    assert view.run("return document.querySelectorAll('.frames button').length") == 22
    assert view.run("return document.querySelectorAll('.frames .jump').length") >= 1
    seen = "return document.querySelector('[data-path] .pair .tile').style.backgroundPosition"
    before = view.run(seen)
    view.run("document.querySelector('input[type=range]').focus()")
    view.press("right", "right")
    assert view.run(seen) != before
    current = view.run(
        "return [...document.querySelectorAll('.frames button')]"
        ".flatMap((b, k) => b.getAttribute('aria-current') === 'true' ? [k] : [])"
    )
    assert current == [2, 13]
    view.run("document.querySelectorAll('.frames button')[21].click()")
    assert view.run("return document.querySelector('input[type=range]').value") == "10"
    told = "return document.querySelector('input[type=range]').getAttribute('aria-valuetext')"
    assert view.run(told).startswith("frame 11 of 11")
    kept = text(view, "[data-path] h3")
    spot(view, start)  # back in sight
    a, b = spot(view, start), spot(view, end)
    view.drag(a, b, (2, b[1]))  # let go outside
    assert "outside" in text(view, "[data-say]")
    assert text(view, "[data-path] h3") == kept


def test_the_keyboard_alone_makes_and_removes_a_path(view):
    view.run("document.querySelector('canvas').focus()")
    assert text(view, "[data-path]") != ""
    view.press("escape")
    assert text(view, "[data-path]") == ""
    assert text(view, "[data-say]") == "path removed"
    before = text(view, "[data-details]")
    seen = {before}
    for key in ("right", "down", "left", "up", "right", "right"):
        view.press(key)
        seen.add(view.run("return document.querySelector('[data-details] .tile').style.cssText"))
    assert len(seen) > 2
    view.press("escape")
    assert text(view, "[data-say]") == "there is no path to remove"
    lists = "return [...document.querySelectorAll('[data-end]')].map(s => s.selectedIndex)"
    assert view.run(lists) == [-1, -1]
    drawn = "return document.querySelector('canvas').toDataURL()"
    view.press(*["right"] * 40)
    unmarked = view.run(drawn)
    view.press("enter")
    assert "path starts at" in text(view, "[data-say]")
    assert view.run(drawn) != unmarked  # the start is marked
    view.press("enter")
    assert "no path" in text(view, "[data-say]")
    assert view.run(drawn) == unmarked
    view.press("enter", *["left"] * 60, "enter")
    assert "The map's path jumps" in text(view, "[data-say]")
    view.press("escape")
    assert text(view, "[data-say]") == "path removed"


def test_the_lists_choose_the_ends_of_a_path(view):
    view.run(
        "const [a, b] = document.querySelectorAll('[data-end]');"
        "a.value = 3; b.value = 0; b.dispatchEvent(new Event('change'));"
    )
    given = explorer(view)
    names = [given["classes"][given["labels"][given["anchors"][k]]] for k in (3, 0)]
    told = text(view, "[data-path] h3")
    assert told.index(names[0]) < told.rindex(names[1])
    backward = view.run(
        "return [...document.querySelectorAll('.frames')].map(f => [...f.querySelectorAll('.tile')]"
        ".map(t => t.style.backgroundPosition))"
    )
    view.run(
        "const [a, b] = document.querySelectorAll('[data-end]');"
        "a.value = 0; b.value = 3; b.dispatchEvent(new Event('change'));"
    )
    forward = view.run(
        "return [...document.querySelectorAll('.frames')].map(f => [...f.querySelectorAll('.tile')]"
        ".map(t => t.style.backgroundPosition))"
    )
    assert [row[::-1] for row in backward] == forward


def test_boxes_and_colours_redraw_the_picture(view):
    drawn = "return document.querySelector('canvas').toDataURL()"
    first = view.run(drawn)
    view.run("document.querySelector('[data-crossing]').click()")
    without = view.run(drawn)
    assert without != first
    legend = text(view, "[data-swatches]")
    view.run(
        "const s = document.querySelector('[data-by]'); s.value = 'mode';"
        "s.dispatchEvent(new Event('change'));"
    )
    assert text(view, "[data-swatches]") != legend
    view.run("document.querySelector('[data-crossing]').click()")


def test_the_first_column_of_a_wide_table_stays_in_sight(view):
    view.run(
        "const t = [...document.querySelectorAll('.scroll')].find(s => /FD/.test(s.textContent));"
        "t.id = 'quality'; t.scrollIntoView({block: 'center'}); t.scrollLeft = 10000;"
    )
    left, table = view.run(
        "const t = document.getElementById('quality');"
        "return [t.querySelector('tbody td').getBoundingClientRect().left,"
        " t.getBoundingClientRect().left]"
    )
    assert abs(left - table) < 1
