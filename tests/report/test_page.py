import base64
import hashlib
import html.parser
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import aeot
from aeot import cli
from aeot.report import write_page
from aeot.report.explorer import explorer
from aeot.report.models import _curves, _grouped, _ideal_counts
from aeot.report.page import Page, sprite, table
from aeot.search.nearest import nearest


class Document(html.parser.HTMLParser):
    """Checks that tags close, and collects what a browser would load or run."""

    void = {"meta", "input", "br", "img", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.scripts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def decoded(picture):
    """The images of a sprite, read back from its PNG."""
    body = base64.b64decode(picture["uri"].removeprefix("data:image/png;base64,"))
    sheet = np.asarray(Image.open(io.BytesIO(body)))
    h, w, columns = picture["height"], picture["width"], picture["columns"]
    places = [divmod(k, columns) for k in range(picture["count"])]
    return np.stack([sheet[r * h : (r + 1) * h, c * w : (c + 1) * w] for r, c in places])


@pytest.fixture(scope="module")
def prepared(fitted):
    return explorer(*fitted, shown=60, anchors=4, picture="pca")


@pytest.fixture(scope="module")
def written(page):
    return page.read_text()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sprite_holds_the_very_pixels(channels):
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, channels, 5, 4), generator=draw, dtype=torch.uint8)
    back = decoded(sprite(images, 3)).reshape(7, 5, 4, channels)
    np.testing.assert_array_equal(back, images.permute(0, 2, 3, 1))


# ---- the explorer


def test_the_paths_are_what_they_say(fitted, prepared):
    model, _ = fitted
    frames = decoded(prepared["frames"]).reshape(-1, 2, prepared["steps"], 8, 8)
    sites = explorer_sites(model, prepared)
    pairs = [(i, j) for i in range(len(sites)) for j in range(i + 1, len(sites))]
    assert len(frames) == len(pairs)
    for row, (i, j) in zip(frames, pairs, strict=True):
        for t in (0, 3, 10):  # the uncut path is the straight line of codes
            code = sites[i] + t / 10 * (sites[j] - sites[i])
            expected = aeot.to_uint8(model.decode(code[None]))[0, 0].numpy()
            np.testing.assert_array_equal(row[0, t], expected)
        # an extension sends the centre of a cell to its code: both paths end alike
        np.testing.assert_allclose(row[1, 0].astype(int), row[0, 0].astype(int), atol=2)
        np.testing.assert_allclose(row[1, -1].astype(int), row[0, -1].astype(int), atol=2)


def explorer_sites(model, prepared):
    """The codes of the anchors, found again by their thumbnails."""
    thumbs = decoded(prepared["thumbs"])[prepared["anchors"]]
    every = aeot.to_uint8(model.decode(model.brenier_.sites))[:, 0].numpy()
    rows = [int(np.abs(every.astype(int) - t).sum(axis=(1, 2)).argmin()) for t in thumbs]
    return model.brenier_.sites[rows]


def test_paths_jump_between_modes_and_not_inside_one(fitted, prepared):
    modes = [prepared["modes"][a] for a in prepared["anchors"]]
    assert set(modes) == {0, 1}
    row = 0
    for i in range(len(modes)):
        for j in range(i + 1, len(modes)):
            assert bool(prepared["jumps"][row]) == (modes[i] != modes[j])
            if modes[i] != modes[j]:  # nothing moves the code as far as the jump does
                assert prepared["jumps"][row] == [prepared["largest"][row]]
            row += 1


def test_the_cut_path_never_shows_a_blend_of_modes(fitted, prepared):
    model, _ = fitted
    frames = decoded(prepared["frames"]).reshape(-1, 2, prepared["steps"], 64).astype(float)
    first = (frames / 127.5 - 1) @ model.autoencoder_.basis[0].double().numpy()  # +-3 at the modes
    assert np.abs(first[:, 1]).min() > 1
    assert np.abs(first[:, 0]).min() < 1  # the straight line passes through the gap


def test_pairs_neighbours_and_classes(fitted, prepared):
    model, data = fitted
    modes = np.array(prepared["modes"])
    assert prepared["pairs"]
    assert all(modes[i] != modes[j] for i, j in prepared["pairs"])
    labels = np.array(prepared["labels"])
    assert (labels[modes == modes[0]] == labels[0]).all()  # one class a mode
    codes = model.encode(torch.tensor(decoded(prepared["thumbs"])[:, None] / 127.5 - 1).float())
    least = nearest(codes, codes, 2)[0][:, 1]
    first = torch.tensor([row[0] for row in prepared["near"]])
    # 8 bits move the 32 equal pixels of a coordinate together, at both ends of a distance
    rounding = 2 * (2 * 32) ** 0.5 / 255
    assert bool(((codes - codes[first]).norm(dim=1) < least + rounding).all())
    assert float(least.median()) > rounding
    assert np.array(prepared["apart"]).sum() == 0  # nobody's six nearest lie in the other cluster
    assert json.loads(json.dumps(prepared)) == prepared


def test_without_training_data_codes_are_decoded(fitted):
    prepared = explorer(fitted[0], None, shown=20, anchors=3, picture="tsne")
    assert prepared["labels"] is None
    assert prepared["thumbs"]["count"] == 20
    assert np.isfinite(prepared["points"]).all()


# ---- cell masses


def test_expected_hits_are_those_of_simulated_exact_cells():
    masses = np.array([0.5, 0.3, 0.1, 0.1])
    draws = np.random.default_rng(0).multinomial(20, masses, size=20_000)
    simulated = np.bincount(draws.ravel(), minlength=21) / 20_000
    np.testing.assert_allclose(_ideal_counts(20, masses, 21), simulated, atol=0.02)


def test_grouping_keeps_every_cell():
    observed, ideal = np.zeros(500), np.zeros(500)
    observed[40:490] = 1
    bars, line, at = _grouped(observed, ideal + 0.9 * observed)
    assert bars.sum() == 450
    assert line.sum() == pytest.approx(405)
    assert len(bars) <= 40
    assert at[0] >= 40


# ---- the page


def test_the_page_is_closed_and_loads_nothing(written):
    found = Document(written)
    links = [value for _, name, value in found.attributes if name in ("src", "href", "action")]
    assert all(link.startswith(("#section-", "#chart")) for link in links)
    assert not {"img", "link", "iframe", "object"} & set(found.tags)
    assert not re.search(r"https?://(?!www\.w3\.org)", written)
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_ids_are_different_and_what_is_referred_to_is_there(written):
    found = Document(written).attributes
    ids = [value for _, name, value in found if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value[1:] for _, name, value in found if name == "href"]
    links += re.findall(r"url\(#([^)]*)\)", written)
    assert len(links) > 50
    assert set(links) <= set(ids)


def test_only_our_own_script_may_run(written):
    _, script = Document(written).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f"{policy}; script-src 'sha256-{digest}'" in written


def test_every_string_is_escaped(written):
    assert "<script>alert" not in written
    assert "<img" not in written
    assert "<b>left" not in written
    data = json.loads(Document(written).scripts[0])
    assert data["explorers"][0]["classes"][0] == "<b>left</b>"  # and nothing is lost


def test_markup_in_any_place_is_inert():
    evil = "</script><script>alert(1)</script>{{script}}<!--"
    page = Page(evil, evil)
    page.add(evil, table([evil], [[evil]]))
    page.galleries.append({"samples": {"uri": evil}})
    text = page.html()
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "<!--" not in text
    assert json.loads(Document(text).scripts[0])["galleries"][0]["samples"]["uri"] == evil


def test_the_table_marks_the_best_and_the_baselines(written, compared):
    assert written.count("<tr class=baseline>") == 2 * 2  # real and reconstructions, two tables
    stars = sum(len(compared.best(name)) for name in compared["copies"])
    assert written.count("<td class=best>") == stars


def test_short_trainings_and_bounds_have_curves(fitted):
    model = aeot.AEOT(latent_dim=2, tol=0.2, device="cpu", width=4)
    model.fit(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), steps=60)
    training, solver = _curves(model).values()
    assert [len(line.get_xdata()) for line in training.axes[0].lines] == [4, 2]  # of 40 and 20
    measured, bound, tol = solver.axes[0].lines
    assert bound.get_ydata()[-1] == model.certificate_["mass_error_upper"]
    assert set(tol.get_ydata()) == {0.2}
    assert "tol = 0.2" in {text.get_text() for text in solver.axes[0].texts}


def test_several_models_stand_side_by_side(fitted, tmp_path):
    model = fitted[0]
    write_page({"one": model, "two": model}, tmp_path / "two.html", picture="pca", shown=20)
    write_page({"one": model}, tmp_path / "one.html", picture="pca", shown=20)
    both, alone = ((tmp_path / f"{name}.html").read_text() for name in ("two", "one"))
    head = '<thead><tr><th scope="col"></th><th scope="col">one</th><th scope="col">two</th>'
    assert head in both
    assert "side by side" not in alone
    bound = f"{model.certificate_['mass_error_upper']:.4g}"
    row = both.split("mass error, 95 % bound</td>")[1].split("</tr>")[0]
    assert row.count("<td>") == 2
    assert row.count(bound[:5]) == 2


def test_the_command_writes_a_page_of_a_saved_comparison(compared, tmp_path, capsys):
    compared.save(tmp_path / "comparison")
    out = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path / "comparison"), "--out", str(out)]) == 0
    assert "wrote" in capsys.readouterr().out
    assert "model &lt;script&gt;" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "runs must be runs, saved models or comparisons, got nowhere"),
        (["."], "which holds neither"),
        (["x", "--out", "."], "out must be a file in a folder that exists"),
    ],
)
def test_the_command_refuses(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
