"""Classifiers of Keras applications as ONNX files, for ``surgery.py --keras PYTHON``.

    python -m venv .venv-keras && .venv-keras/bin/pip install tensorflow-cpu tf2onnx
    .venv-keras/bin/python benchmarks/surgery_keras.py FOLDER

Weights are random, and BatchNorm's statistics and gains are not its start values. ``model.export`` is Keras' own way to
ONNX; ``tf2onnx`` converts the TensorFlow graph, of an older opset too.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import tensorflow as tf

APPLICATIONS = {
    "MobileNetV2": {"alpha": 0.35, "input_shape": (96, 96, 3)},
    "MobileNet": {"alpha": 0.25, "input_shape": (128, 128, 3)},
    "ResNet50V2": {"input_shape": (96, 96, 3)},
    "DenseNet121": {"input_shape": (96, 96, 3)},
    "MobileNetV3Small": {"input_shape": (96, 96, 3)},
    "VGG16": {"input_shape": (32, 32, 3), "classes": 10},
}
BY_TF2ONNX = ("MobileNetV2", "ResNet50V2")


def randomized(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False, recursive=True):
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, n))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, n))
            if layer.gamma is not None:
                layer.gamma.assign(rng.uniform(0.5, 1.5, n))
            layer.beta.assign(rng.normal(0, 0.1, n))
    return model


def main() -> None:
    folder = Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    for name, options in APPLICATIONS.items():
        model = randomized(getattr(keras.applications, name)(weights=None, **options))
        model(np.zeros((1, *options["input_shape"]), np.float32))  # Keras exports only what was called
        try:
            model.export(folder / f"keras.{name}.onnx", format="onnx", verbose=False)
        except Exception as error:
            print(f"{name}: Keras cannot export it ({type(error).__name__}: {str(error)[:200]})", file=sys.stderr)
        if name in BY_TF2ONNX:
            import tf2onnx

            signature = (tf.TensorSpec((None, *options["input_shape"]), tf.float32, name="pictures"),)
            function = tf.function(lambda x, model=model: model(x, training=False), input_signature=signature)
            tf2onnx.convert.from_function(
                function, signature, opset=13, output_path=str(folder / f"tf2onnx.{name}.onnx")
            )


if __name__ == "__main__":
    main()
