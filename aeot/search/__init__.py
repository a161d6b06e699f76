"""Search for the highest plane <x, y_i> + h_i or the nearest row, never holding all scores."""
