"""The one table of methods: what users type, the function that computes it, and what that needs of a forward pass.

The functions' modules import torch; this one does not, so that methods can be named and listed without it.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import Compute

Need = Literal["features", "scores", "gradients", "attention", "statistics"]
"""What a method reads of a pass: the last spatial features; logits of changed inputs or features; gradients of scores;
attention matrices; and, where a normalization stands behind the pooling, its statistics frozen.
"""

WITHOUT_GRADIENTS = "rise, occlusion, scorecam, ablationcam, reciprocam or eigencam"
"""Some methods that any ONNX classifier can be explained by, for messages."""


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        name: what users type.
        function: "module:function" in this package, or the function itself.
        needs: what it reads of a pass; () for functions of the user's own, which are not known.
        summary: the formula in a line.
        paper: where it comes from.
        unit: of the map's values; "logits per cell" where ``map.sum() + bias`` is the score.
    """

    name: str
    function: str | Compute
    needs: tuple[Need, ...]
    summary: str
    paper: str
    unit: str = "logits per cell"

    @cached_property
    def compute(self) -> Compute:
        """The function; its module is imported when it is first asked for."""
        if not isinstance(self.function, str):
            return self.function
        module, _, function = self.function.partition(":")
        compute: Compute = getattr(importlib.import_module(f"camlucida.methods.{module}"), function)
        return compute


_STRENGTH = "logits per unit of input, largest of the channels, unsigned"

# fmt: off
_TABLE = (
    Method("cam", "linear:cam", ("features", "gradients"),
           "M = Σ_k w_k A_k, in logits per cell; exact behind affine heads, gradient x features elsewhere",
           "Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2"),
    Method("contrastive-cam", "linear:contrastive_cam", ("features", "gradients"),
           "the map of S_c - S_d, with d the strongest other class: why c and not its nearest rival",
           "Prabhushankar et al., Contrastive Explanations in Neural Networks, ICIP 2020, on maps of Zhou et al."),
    Method("finercam", "linear:finercam", ("features", "gradients"),
           "the map of Σ_d p_d (S_c - α S_d) / Σ_d p_d over the 3 classes d nearest to c in logit",
           "Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details, CVPR 2025"),
    Method("gradcam", "gradient:gradcam", ("features", "gradients"),
           "M = Σ_k mean(g_k) A_k; equals cam behind affine heads",
           "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, "
           "ICCV 2017, eq. 1 and 2"),
    Method("hirescam", "gradient:hirescam", ("features", "gradients"),
           "M = Σ_k g_k ⊙ A_k",
           "Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural "
           "networks, arXiv 2011.08891, 2020"),
    Method("xgradcam", "gradient:xgradcam", ("features", "gradients"),
           "M = Σ_k (Σ g_k A_k / Σ A_k) A_k",
           "Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020"),
    Method("gradcam++", "gradient:gradcam_plus_plus", ("features", "gradients"),
           "M = Σ_k (Σ α_k relu(g_k)) A_k, α_k = g_k² / (2 g_k² + g_k³ Σ A_k)",
           "Chattopadhay et al., Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional "
           "Networks, WACV 2018, eq. 7 and 19",
           "logits per cell, reweighted"),
    Method("layercam", "gradient:layercam", ("features", "gradients"),
           "M = Σ_k relu(g_k) ⊙ A_k",
           "Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021",
           "logits per cell, rising ones alone"),
    Method("gradcam-elementwise", "gradient:gradcam_elementwise", ("features", "gradients"),
           "M = Σ_k relu(g_k ⊙ A_k)",
           "Pillai and Pirsiavash, Explainable Models with Consistent Interpretations, AAAI 2021",
           "logits per cell, positive ones alone"),
    Method("eigengradcam", "gradient:eigengradcam", ("features", "gradients"),
           "M = the cells' gradient x features on their first principal component",
           "Gildenblat, grad-cam (software), after Muhammad and Yeasin, Eigen-CAM, IJCNN 2020",
           "logits per cell, along the first principal component"),
    Method("shapleycam", "gradient:shapleycam", ("features", "gradients"),
           "M = Σ_k mean(g_k - ½ (H A)_k) A_k, H the Hessian of the score",
           "Cai, CAMs as Shapley Value-based Explainers, arXiv 2501.06261, 2025"),
    Method("smoothgradcam++", "path:smoothgradcam_plus_plus", ("features", "gradients"),
           "Grad-CAM++ with g, g² and g³ averaged over noisy inputs",
           "Omeiza et al., Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep "
           "Convolutional Neural Network Models, IntelliSys 2019",
           "logits per cell, reweighted"),
    Method("integrated-gradcam", "path:integrated_gradcam", ("features", "gradients"),
           "M = mean over t of relu(Σ_k mean(g_k(x_t)) (A_k(x_t) - A_k(x_0))), x_t on the line from x_0 to x",
           "Sattarzadeh et al., Integrated Grad-CAM: Sensitivity-Aware Visual Explanation of Deep Convolutional "
           "Networks via Integrated Gradient-Based Scoring, ICASSP 2021",
           "logits per cell, positive ones along the path"),
    Method("gradient", "inputs:gradient", ("gradients",),
           "M = max over channels of |∂S/∂x|",
           "Simonyan et al., Deep Inside Convolutional Networks: Visualising Image Classification Models and "
           "Saliency Maps, ICLR workshop 2014, section 3.1",
           _STRENGTH),
    Method("smoothgrad", "inputs:smoothgrad", ("gradients",),
           "M = max over channels of |mean over noise of ∂S/∂x(x + noise)|",
           "Smilkov et al., SmoothGrad: removing noise by adding noise, ICML workshop 2017",
           _STRENGTH),
    Method("gradient-x-input", "inputs:gradient_x_input", ("gradients",),
           "M = Σ over channels of x ∂S/∂x",
           "Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating Activation "
           "Differences, arXiv 1605.01713, 2016"),
    Method("integrated-gradients", "inputs:integrated_gradients", ("gradients",),
           "M = Σ over channels of (x - x_0) ∫ ∂S/∂x(x_0 + t (x - x_0)) dt",
           "Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, eq. 1 and 3"),
    Method("guided-backprop", "inputs:guided_backprop", ("gradients",),
           "M = max over channels of |∂S/∂x|, with only positive gradients passed back through each ReLU",
           "Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015",
           _STRENGTH),
    Method("guided-gradcam", "inputs:guided_gradcam", ("features", "gradients"),
           "M = guided backpropagation x relu(Grad-CAM), the latter resized to the input",
           "Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, "
           "ICCV 2017, section 3.2",
           f"{_STRENGTH}, x logits per cell"),
    Method("fullgrad", "inputs:fullgrad", ("gradients",),
           "M = Σ over channels of x ∂S/∂x, plus Σ over layers and channels of bias x gradient, resized",
           "Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019 (the "
           "decomposition)"),
    Method("fullgrad-saliency", "inputs:fullgrad_saliency", ("gradients",),
           "M = Σ over layers and channels of ψ(bias x gradient), ψ: absolute value, scaled to [0, 1], resized",
           "Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019 "
           "(FullGrad saliency, with ψ)",
           "sum of layers, each scaled to [0, 1]"),
    Method("scorecam", "perturbation:scorecam", ("features", "scores"),
           "M = Σ_k softmax_k(f(X ∘ H_k) - f(X_b)) A_k, H_k = A_k upsampled, then scaled to [0, 1]",
           "Wang et al., Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR Workshops 2020, algorithm 1",
           "activation, channels weighted by masked scores"),
    Method("faster-scorecam", "perturbation:faster_scorecam", ("features", "scores"),
           "Score-CAM of the channels that vary most over the grid",
           "Tabayashi, Faster-Score-CAM, github.com/tabayashi0117/Score-CAM, 2020, after Wang et al. 2020",
           "activation, channels weighted by masked scores"),
    Method("sscam", "perturbation:sscam", ("features", "scores"),
           "Score-CAM whose scores are means over Gaussian noise on the masks (or on the masked inputs)",
           "Wang et al., SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization, 2020, types 1 and 2",
           "activation, channels weighted by masked scores"),
    Method("iscam", "perturbation:iscam", ("features", "scores"),
           "Score-CAM whose scores are means over growing masks, c_i H_k with c_i = Σ_{j<i} j / N",
           "Naidu et al., IS-CAM: Integrated Score-CAM for axiomatic-based explanations, 2020, algorithm 1",
           "activation, channels weighted by masked scores"),
    Method("groupcam", "perturbation:groupcam", ("features", "gradients", "scores"),
           "M = Σ_g (p(X ∘ H_g + blur(X) ∘ (1 - H_g)) - p(blur(X))) H_g, H_g: groups of Grad-CAM's channels",
           "Zhang et al., Group-CAM: Group Score-Weighted Visual Explanations for Deep CNNs, 2021, eq. 3-8",
           "probability increase"),
    Method("rise", "blackbox:rise", ("scores",),
           "M = 1/(N p) Σ_i f(X ∘ m_i) m_i over random masks m_i of smooth cells",
           "Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, eq. 6",
           "probability"),
    Method("occlusion", "blackbox:occlusion", ("scores",),
           "M(u) = S(X) - S(X with a grey window at u)",
           "Zeiler & Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2",
           "logit drop"),
    Method("ablationcam", "features:ablationcam", ("features", "scores"),
           "M = Σ_k (S - S without A_k) A_k",
           "Desai & Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free "
           "Localization, WACV 2020, eq. 3-4, without its division by S",
           "logit drop x activation"),
    Method("reciprocam", "features:reciprocam", ("features", "scores"),
           "M(u) = p(head of the features at u alone)",
           "Byun & Lee, Recipro-CAM: Fast Gradient-free Visual Explanations for CNNs, 2022; ViT-ReciproCAM, 2023",
           "probability"),
    Method("opticam", "features:opticam", ("features", "gradients", "scores"),
           "M = Σ_k softmax(u)_k A_k, u maximizing S(X ∘ M upsampled and scaled to [0, 1])",
           "Zhang et al., Opti-CAM: Optimizing saliency maps for interpretability, CVIU 2024, eq. 6-10",
           "activation, channels weighted by optimization"),
    Method("eigencam", "decomposition:eigencam", ("features",),
           "M = A v₁, with v₁ the first right singular vector of the features A; the same for every class",
           "Muhammad & Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020, section III",
           "activation"),
    Method("kpcacam", "decomposition:kpcacam", ("features",),
           "the features' first kernel principal component; the same for every class",
           "Karmani, Sivakaran, Prasad, Ali, Yang & Tang, KPCA-CAM: Visual Explainability of Deep Computer Vision "
           "Models using Kernel PCA, MMSP 2024",
           "kernel component"),
    Method("fem", "decomposition:fem", ("features",),
           "M = Σ_k μ_k [A_k ≥ μ_k + 2 σ_k], μ and σ over the cells; the same for every class",
           "Fuad, Martin, Giot, Bourqui, Benois-Pineau & Zemmari, Features Understanding in 3D CNNs for Actions "
           "Recognition in Video, IPTA 2020 (the Feature Explanation Method)",
           "activation"),
    Method("dff", "decomposition:dff", ("features", "scores", "statistics"),
           "M_t = Σ_r e_tr H_r / ΣH_r, with A⁺ ≈ H W ≥ 0 and e_tr what concept r alone adds to the score",
           "Collins, Achanta & Süsstrunk, Deep Feature Factorization for Concept Discovery, ECCV 2018, section 3"),
    Method("rollout", "attention:rollout", ("attention",),
           "R = Π_l (½ mean_h A_l + ½ I), the class token's row; the same for every class",
           "Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3 (attention rollout)",
           "share of attention"),
    Method("gradient-rollout", "attention:gradient_rollout", ("attention", "gradients"),
           "R ← R + mean_h (∇A_l ⊙ A_l)⁺ R, layer by layer; the class token's row",
           "Chefer, Gur & Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and "
           "Encoder-Decoder Transformers, ICCV 2021, eqs. 5 and 6",
           "relevance"),
    Method("legrad", "attention:legrad", ("attention", "gradients"),
           "mean over layers, heads and rows of (∂s_l/∂A_l)⁺, with s_l the score of the tokens after layer l",
           "Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation "
           "Sensitivity, ICCV 2025, section 3 (arXiv:2404.03214)",
           "logits per unit of attention"),
    Method("tscam", "attention:tscam", ("attention", "features"),
           "M = mean_l,h A_l[class token] ⊙ S, with S the classifier at each patch token",
           "Gao et al., TS-CAM: Token Semantic Coupled Attention Map for Weakly Supervised Object Localization, "
           "ICCV 2021, section 3",
           "logits x attention"),
    Method("random", "baselines:random", ("features",),
           "M(u) uniform in [0, 1), the same for every picture and target",
           "a baseline: what a map that knows nothing scores",
           "uniform in [0, 1)"),
    Method("centre", "baselines:centre", ("features",),
           "M(u) = exp(-|u|² / 2σ²), u from the centre in sides of the input: pictures are taken of what is in them",
           "a baseline: the centre prior of photographs",
           "Gaussian, 1 at the centre"),
)
# fmt: on

METHODS = {method.name: method for method in _TABLE}
"""Every method by name."""


def find_method(name: str | Compute) -> Method:
    """The method of this name, or the one that a function (also inside ``partial``) is; a function of the user's own
    is a method of its own name, whose maps have no unit.

    Raises:
        MethodError: there is none; the message lists near names.

    Example:
        >>> find_method("cam").unit
        'logits per cell'
    """
    if isinstance(name, str):
        if name in METHODS:
            return METHODS[name]
        near = difflib.get_close_matches(name, METHODS, 3, 0.4) or sorted(METHODS)
        raise MethodError(f"there is no method {name!r}; did you mean {', '.join(near)}? See: camlucida methods")
    bare = getattr(name, "func", name)
    own_name = getattr(bare, "__name__", "own")
    for method in METHODS.values():
        if (
            f"camlucida.methods.{method.function}" == f"{getattr(bare, '__module__', '')}:{own_name}"
            and method.compute is bare
        ):
            return replace(method, function=name)
    return Method(
        own_name, name, getattr(bare, "needs", ()), "a function of the user's own", "", getattr(bare, "unit", "its own")
    )
