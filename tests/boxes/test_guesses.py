"""The original code's boxes against a re-derivation by brute force, and the five guesses."""

from __future__ import annotations

import cv2
import numpy as np

from camlucida.boxes.guesses import all_boxes, guesses_of_rank, loose_tight


def parts(mask, connectivity):
    """Flood fill: lists of pixels."""
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    if connectivity == 8:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    while left:
        part, edge = [], [left.pop()]
        while edge:
            y, x = edge.pop()
            part.append((y, x))
            for dy, dx in steps:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    edge.append((y + dy, x + dx))
        yield part


def slow_boxes(heatmap):
    """The generator as published: threshold, distance, rescale, threshold, contours, sort, merge."""
    image = np.maximum(heatmap, 0)
    image = np.floor(image / image.max() * 255 + 0.5).astype(int)
    height, width = image.shape
    found = []
    for level in (20, 100, 110):
        above = image > level
        zeros = np.argwhere(~above)
        if not len(zeros):
            deep = above
        elif not above.any():
            continue
        else:
            distance = np.zeros(image.shape)
            for y, x in np.argwhere(above):
                distance[y, x] = np.sqrt(((zeros - (y, x)) ** 2).sum(axis=1).min())
            deep = np.floor(distance * 255 / distance.max() + 0.5) > 10
        spans = [
            (min(xs), min(ys), max(xs) + 1, max(ys) + 1) for ys, xs in (zip(*p, strict=True) for p in parts(deep, 8))
        ]
        outside = np.pad(~deep, 1, constant_values=True)
        for hole in parts(outside, 4):
            if (0, 0) not in hole:  # in the padded frame: holes only; the contour runs around them
                ys, xs = zip(*hole, strict=True)
                spans.append((min(xs) - 2, min(ys) - 2, max(xs) + 1, max(ys) + 1))
        for x1, y1, x2, y2 in spans:
            found.append(
                [min(x1, width - 5), min(y1, height - 5), min(x2 - x1, width - x1 - 5), min(y2 - y1, height - y1 - 5)]
            )
    found.sort(key=lambda box: -(box[2] * box[3]))
    i = 0
    while i < len(found):
        j = i + 1
        while j < len(found):
            a, b = found[i], found[j]
            across = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
            down = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
            if across * down > int(max(a[2] * a[3], b[2] * b[3]) * 0.5):
                found.pop(j)
            j += 1
        i += 1
    return [[min(x, x + w), min(y, y + h), max(x, x + w), max(y, y + h)] for x, y, w, h in found]


def test_boxes_are_those_of_the_published_generator(rng):
    for i in range(12):
        grid = rng.standard_normal((5, 5)) + (1.0 if i % 3 else 0.0)
        heatmap = cv2.resize(grid, (40, 34), interpolation=cv2.INTER_LINEAR)
        if i == 11:
            heatmap = np.abs(heatmap) + 5  # above all levels everywhere
        expected = slow_boxes(heatmap)
        got = all_boxes(heatmap).tolist()
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in expected]
        if len(set(areas)) == len(areas):  # equal areas may come in either order
            assert got == expected, i
        else:
            assert sorted(got) == sorted(expected), i


def test_a_ring_gives_the_box_of_its_hole_too():
    heatmap = np.zeros((60, 60))
    heatmap[10:50, 10:50] = 1.0
    heatmap[22:38, 22:38] = 0.0
    assert [9 < x1 < 24 and 36 < x2 < 51 for x1, _, x2, _ in all_boxes(heatmap).tolist()].count(True) >= 2


def test_boxes_stay_off_the_right_and_the_lower_edge():
    assert all_boxes(np.ones((40, 50))).tolist()[0] == [0, 0, 45, 35]


def test_a_map_without_positive_values_has_no_boxes():
    assert loose_tight(-np.ones((20, 20))).shape == (0, 4)
    assert guesses_of_rank(-np.ones((20, 20)), 0).shape == (0, 4)


def cone(x, y, radius=20, size=70):
    down, across = np.mgrid[:size, :size]
    return np.maximum(0, 1 - np.hypot(across - x, down - y) / radius)


def test_five_guesses_are_two_two_and_one():
    maps = [cone(25, 25), cone(40, 30), cone(30, 40), cone(20, 20), cone(45, 45)]
    guesses = [guesses_of_rank(heatmap, rank).tolist() for rank, heatmap in enumerate(maps)]
    assert [len(boxes) for boxes in guesses] == [2, 2, 1, 0, 0]
    for heatmap, boxes in zip(maps, guesses, strict=True):
        assert boxes == loose_tight(heatmap).tolist()[: len(boxes)]
    loose, tight = guesses[0]
    assert loose[0] < tight[0] < tight[2] < loose[2]
