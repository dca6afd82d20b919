"""From map to mask to box: thresholds, calibration, guesses, pseudo-boxes."""
