"""Mistakes that are made in porting an optimizer, the commonest first, each as a change of what PyTorch does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from netparity.training.update_rules import Clip, Rule

CLIP_EPSILON = 1e-6  # of ``torch.nn.utils.clip_grad_norm_``

_EPSILONS = (1e-8, 1e-7, 1e-6, 1e-5, 1e-10, 1e-3, 1e-4, 1e-9, 1e-12, 0.0)
_DECAYS = (1e-4, 1e-2, 5e-4, 1e-3, 0.1, 0.05, 1e-5)
_MOMENTA = (0.9, 0.99, 0.95, 0.5)
_LIMITS = (1.0, 0.5, 5.0, 10.0, 0.1, 0.25, 2.0)
# By what people call it: PyTorch's word, and the usual values.
_VALUES: dict[str, tuple[str, tuple[float, ...]]] = {
    "epsilon": ("eps", _EPSILONS),
    "b1": ("beta1", (0.9, 0.95, 0.8, 0.5)),
    "b2": ("beta2", (0.999, 0.99, 0.95, 0.98, 0.9)),
    "alpha": ("alpha", (0.9, 0.99, 0.999, 0.95)),
    "momentum": ("momentum", _MOMENTA),
    "dampening": ("dampening", (0.0, *_MOMENTA)),
    "lr_decay": ("lr_decay", (0.0,)),
}
_MEMORIES = {"SGD": ("momentum", "dampening"), "Adam": ("b1", "b2"), "RMSprop": ("alpha", "momentum"), "Adagrad": ()}
_OTHER_DECAY = {"coupled": "decoupled", "decoupled": "coupled"}
_FORMS = {"coupled": "coupled with the gradient (L2)", "decoupled": "decoupled from the gradient"}


# By words that a line has all of, the first that fits: the mistake's key in `netparity.diagnosis.mistakes`.
_KEYS = (
    (("by the norm alone",), "clip-epsilon"),
    (("clip",), "clip-kind"),
    (("centred", "RMSprop"), "rmsprop-centred"),
    (("alpha",), "rmsprop-decay"),
    ((": weight decay coupled",), "decoupled-decay"),
    ((": weight decay decoupled",), "decoupled-decay"),
    (("weight decay",), "weight-decay"),
    (("epsilon", "(RMSprop)"), "rmsprop-epsilon"),
    (("epsilon", "(Adam"), "adam-epsilon"),
    (("bias correction", "(Adam"), "adam-bias-correction"),
    (("has b",), "adam-betas"),
    (("b1 and b2",), "adam-betas"),
    (("momentum",), "momentum"),
    (("dampening",), "momentum"),
    (("velocity",), "momentum"),
    (("runs", "early"), "schedule-shift"),
    (("runs", "late"), "schedule-shift"),
    (("cosine schedule",), "schedule-length"),
)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One change.

    Attributes:
      axis: what it changes; only changes of different things can be made together.
      jax, torch: the line that says so of either side.
      change: makes the wrong rule of a right one.
    """

    axis: str
    jax: str
    torch: str
    change: Callable[[Rule], Rule]


@dataclasses.dataclass(frozen=True)
class Value:
    """One option whose value may be any number.

    Attributes:
      starts: values near which to look for it.
      change: makes the rule with a value.
      said: the line that says so of JAX.
    """

    starts: tuple[float, ...]
    change: Callable[[Rule, float], Rule]
    said: Callable[[str], str]


def number(value: float) -> str:
    """A number for people.

    >>> number(1e-7), number(0.2001), number(10.0)
    ('1e-07', '0.2001', '10')
    """
    return f"{value:.6g}"


def several(values: np.ndarray) -> str:
    """The different numbers of an array for people."""
    return " and ".join(number(float(value)) for value in dict.fromkeys(np.ravel(values)))


def key(line: str) -> str:
    """The key in `netparity.diagnosis.mistakes` of the first mistake that a line names; empty if it has none.

    >>> key("JAX has epsilon 1e-07 where PyTorch has 1e-08 (Adam); JAX has learning rate 0.02 where PyTorch has 0.01")
    'adam-epsilon'
    """
    first = line.split("; ")[0].split(", or ")[0]
    return next((found for words, found in _KEYS if all(word in first for word in words)), "")


def title(rule: Rule) -> str:
    """What PyTorch calls the optimizer."""
    return "AdamW" if rule.kind == "Adam" and rule.decay == "decoupled" else rule.kind


def known(rule: Rule, kernels: np.ndarray) -> Iterator[Mistake]:
    """The mistakes that can be made with an optimizer.

    Args:
      rule: as PyTorch has it.
      kernels: ``[numbers]``, bool: whether a number's parameter has more than one axis.
    """
    yield from _epsilon(rule)
    yield from _correction(rule)
    yield from _decay(rule, kernels)
    yield from _memory(rule)
    yield from _velocity(rule)
    yield from _average(rule)
    yield from _clipping(rule)
    yield from _rates(rule)


def values(rule: Rule) -> Iterator[Value]:
    """The options whose value may be any number."""
    names = (*(("epsilon",) if "eps" in rule.options else ()), *_MEMORIES[rule.kind])
    for word in names:
        option, usual = _VALUES[word]
        start = (float(np.ravel(rule.options[option])[0]), *usual)
        yield Value(start, _setter(option), _saying(rule, word, option))
    for form in (rule.decay, _OTHER_DECAY[rule.decay]):
        yield Value((0.0, *_DECAYS), _decayer(form), lambda new, form=form: _decay_said(rule, new, form))  # type: ignore[misc]
    if rule.kind in ("RMSprop", "Adagrad"):
        yield Value((rule.initial, 0.1, 1.0), _begun, lambda new: _beginning(rule, new))
    if rule.clip is None or rule.clip.how == "norm":
        limit = rule.clip.limit if rule.clip else None
        for epsilon in (0.0, CLIP_EPSILON):
            yield Value(
                (limit, *_LIMITS) if limit else _LIMITS,
                lambda rule, value, epsilon=epsilon: dataclasses.replace(  # type: ignore[misc]
                    rule, clip=Clip("norm", value, epsilon)
                ),
                lambda new: (
                    f"JAX clips gradients to norm {new} where PyTorch "
                    + (f"does to {number(limit)}" if limit else "does not clip")
                ),
            )


def _setter(option: str) -> Callable[[Rule, float], Rule]:
    return lambda rule, value: rule.told(**{option: value})


def _saying(rule: Rule, word: str, option: str) -> Callable[[str], str]:
    old = several(rule.options[option])
    return lambda new: f"JAX has {word} {new} where PyTorch has {old} ({title(rule)})"


def _other(rule: Rule, word: str, axis: str = "") -> Iterator[Mistake]:
    """The usual values of an option that it does not have."""
    option, usual = _VALUES[word]
    if option not in rule.options:
        return
    old = rule.options[option]
    for value in usual:
        if not (old == value).all():
            new, name = number(value), title(rule)
            yield Mistake(
                axis or word,
                f"JAX has {word} {new} where PyTorch has {several(old)} ({name})",
                f"PyTorch steps with {word} {new}, not with its {several(old)} ({name})",
                lambda rule, value=value: rule.told(**{option: value}),  # type: ignore[misc]
            )


def _form(rule: Rule, axis: str, text: str, change: Callable[[Rule], Rule], other: str = "") -> Mistake:
    """A form of computing that PyTorch's options do not ask for; ``other`` is how PyTorch has it."""
    name = title(rule)
    return Mistake(
        axis,
        f"JAX: {text}, PyTorch: {other}" if other else f"JAX: {text} ({name})",
        f"PyTorch: {text} ({name})",
        change,
    )


def _set(**changes: object) -> Callable[[Rule], Rule]:
    return lambda rule: dataclasses.replace(rule, **changes)  # type: ignore[arg-type]


def _tell(**options: object) -> Callable[[Rule], Rule]:
    return lambda rule: rule.told(**options)


def _epsilon(rule: Rule) -> Iterator[Mistake]:
    if "eps" not in rule.options:
        return
    yield from _other(rule, "epsilon")
    places = {"inside": "inside the root"}
    if rule.kind == "Adam":
        places["uncorrected"] = "added before the correction of the bias (epsilon-hat)"
        places["both"] = "inside the root and outside it"
    old = rule.options["eps"]
    for place, text in places.items():
        yield _form(rule, "epsilon", f"epsilon {text}", _set(epsilon=place))
        for value in _EPSILONS[:-1]:
            if not (old == value).all():
                yield _form(
                    rule,
                    "epsilon",
                    f"epsilon {number(value)} {text}",
                    lambda rule, place=place, value=value: dataclasses.replace(rule.told(eps=value), epsilon=place),  # type: ignore[misc]
                    f"{several(old)} outside it ({title(rule)})",
                )


def _correction(rule: Rule) -> Iterator[Mistake]:
    if rule.kind == "Adam":
        yield _form(rule, "correction", "bias correction left out", _set(corrected=(False, False)))
        yield _form(rule, "correction", "bias correction of the first moment left out", _set(corrected=(False, True)))
        yield _form(rule, "correction", "bias correction of the second moment left out", _set(corrected=(True, False)))
    if rule.kind == "RMSprop":
        yield _form(rule, "correction", "bias correction", _set(corrected=(True, True)), "none (RMSprop)")


def _decayer(form: str) -> Callable[[Rule, float], Rule]:
    """Another weight decay of what decays, or of everything if nothing does."""

    def change(rule: Rule, value: float) -> Rule:
        old = rule.options["weight_decay"]
        return dataclasses.replace(
            rule.told(weight_decay=np.where(old > 0, value, 0.0) if old.any() else value), decay=form
        )

    return change


def _decay_said(rule: Rule, new: str, form: str) -> str:
    old = rule.options["weight_decay"]
    line = f"JAX has weight decay {new} where PyTorch has {several(old[old > 0]) or 0} ({title(rule)})"
    return line if form == rule.decay else f"{line}; JAX's is {_FORMS[form]}"


def _decay(rule: Rule, kernels: np.ndarray) -> Iterator[Mistake]:
    old, name = rule.options["weight_decay"], title(rule)
    if old.any():
        other = "decoupled (AdamW)" if rule.decay == "decoupled" else f"coupled with the gradient (L2, {name})"
        form = _OTHER_DECAY[rule.decay]
        text = "weight decay " + _FORMS[form] + (" (AdamW)" if form == "decoupled" and rule.kind == "Adam" else "")
        yield _form(rule, "decay's form", text, _set(decay=form), other)
        unscaled = "weight decay not multiplied by the learning rate"
        yield _form(rule, "decay's form", unscaled, _set(decay="unscaled"))
        if (rule.options["lr"] != rule.options["lr"][0]).any():
            text = "weight decay multiplied by the first learning rate throughout"
            yield _form(rule, "decay's form", text, _set(decay="unscheduled"), f"by each step's ({name})")
        yield _form(
            rule, "decay", "weight decay left out", _tell(weight_decay=0.0), f"weight decay {several(old)} ({name})"
        )
        largest = old.max()
        alone = (old > 0) == kernels
        everywhere, masked = np.broadcast_to(largest, (1, len(kernels))), np.where(kernels, largest, 0.0)[None]
        if (old == 0).any():
            how = "on kernels alone" if alone.all() else "on some parameters alone"
            yield _form(
                rule, "decay", "weight decay on every parameter", _tell(weight_decay=everywhere), f"{how} ({name})"
            )
        if not alone.all() and not kernels.all():
            how = "on some parameters alone" if (old == 0).any() else "on every parameter"
            yield _form(rule, "decay", "weight decay on kernels alone", _tell(weight_decay=masked), f"{how} ({name})")
    for value in _DECAYS:
        if not (old[old > 0] == value).all() or not old.any():
            told = f"PyTorch steps with weight decay {number(value)}, not with its {several(old)} ({name})"
            for form in (rule.decay,) if old.any() else (rule.decay, _OTHER_DECAY[rule.decay]):
                line, change = _decay_said(rule, number(value), form), _decayer(form)
                yield Mistake("decay", line, told, lambda rule, value=value, change=change: change(rule, value))  # type: ignore[misc]


def _memory(rule: Rule) -> Iterator[Mistake]:
    if rule.kind == "Adam":
        one, two = rule.options["beta1"], rule.options["beta2"]
        if (one != two).any():
            yield _form(rule, "b1", "b1 and b2 swapped", _tell(beta1=two, beta2=one))
        if rule.maximum:
            yield _form(rule, "maximum", "AMSGrad's maximum left out", _set(maximum=""))
            yield _form(
                rule,
                "maximum",
                "AMSGrad's maximum taken after the correction of the bias",
                _set(maximum="corrected"),
                "before it (Adam)",
            )
        else:
            for form in ("raw", "corrected"):
                text = "AMSGrad's maximum" + (", after the correction of the bias" if form == "corrected" else "")
                yield _form(rule, "maximum", text, _set(maximum=form), "none")
        yield _form(rule, "nesterov", "Nesterov's form (NAdam)", _tell(nesterov=1.0), "Adam's")
    if "momentum" in rule.options and rule.options["momentum"].any():
        old = several(rule.options["momentum"])
        yield _form(
            rule, "momentum", "momentum left out", _tell(momentum=0.0, nesterov=0.0), f"momentum {old} ({rule.kind})"
        )
    for word in _MEMORIES[rule.kind]:
        yield from _other(rule, word)


def _velocity(rule: Rule) -> Iterator[Mistake]:
    if "momentum" not in rule.options or not rule.options["momentum"].any():
        return
    if "nesterov" in rule.options and rule.options["nesterov"].any():
        yield _form(rule, "nesterov", "Nesterov's momentum left out", _tell(nesterov=0.0))
    else:
        yield _form(rule, "nesterov", "Nesterov's momentum", _tell(nesterov=1.0), f"plain momentum ({rule.kind})")
    yield _form(rule, "velocity", "velocity as an average, (1 - m) g", _set(velocity="average"))
    yield _form(
        rule, "velocity", "velocity as an average, corrected for its beginning at zero", _set(velocity="debiased")
    )
    if (rule.options["lr"] != rule.options["lr"][0]).any():
        yield _form(rule, "velocity", "learning rate inside the velocity", _set(velocity="scaled"))
    if "dampening" in rule.options and rule.options["dampening"].any():
        yield _form(
            rule, "velocity", "dampening of the first gradient too", _set(undamped=False), "of the later ones (SGD)"
        )


def _begun(rule: Rule, value: float) -> Rule:
    return dataclasses.replace(rule, initial=value)


def _beginning(rule: Rule, new: str) -> str:
    what = "sum" if rule.kind == "Adagrad" else "average"
    word = "initial_accumulator_value" if rule.kind == "Adagrad" else "initial_scale"
    return f"JAX's {what} of squares begins at {new} ({word}) where PyTorch's begins at {number(rule.initial)}"


def _average(rule: Rule) -> Iterator[Mistake]:
    if rule.kind == "RMSprop":
        if rule.options["centered"].any():
            yield _form(rule, "centered", "not centred", _tell(centered=0.0), "centred (RMSprop)")
        else:
            yield _form(rule, "centered", "centred", _tell(centered=1.0), "not centred (RMSprop)")
    for value in {"RMSprop": (1.0,), "Adagrad": (0.1, 0.0)}.get(rule.kind, ()):
        if value != rule.initial:
            line = _beginning(rule, number(value))
            told = f"PyTorch's squares begin at {number(value)}, not at its {number(rule.initial)} ({rule.kind})"
            yield Mistake("initial", line, told, _set(initial=value))


def _clipping(rule: Rule) -> Iterator[Mistake]:
    clip = rule.clip
    if clip is None:
        for limit in _LIMITS:
            said = f"clips gradients to norm {number(limit)}"
            yield Mistake("clip", f"JAX {said}, PyTorch does not clip", "", _set(clip=Clip("norm", limit)))
        for limit in _LIMITS:
            said = f"clips gradients by value ({number(limit)})"
            yield Mistake("clip", f"JAX {said}, PyTorch does not clip", "", _set(clip=Clip("value", limit)))
        return
    ways = {
        "norm": f"gradients clipped by the norm of all ({number(clip.limit)})",
        "each": f"each parameter's gradient clipped by its own norm ({number(clip.limit)})",
        "value": f"gradients clipped by value ({number(clip.limit)})",
    }
    theirs = ways[clip.how]
    yield _form(rule, "clip", "gradient clipping left out", _set(clip=None), theirs)
    if clip.how == "norm" and clip.epsilon:
        text = f"gradients clipped by the norm alone ({number(clip.limit)})"
        plain = dataclasses.replace(clip, epsilon=0.0)
        yield _form(rule, "clip", text, _set(clip=plain), f"by the norm plus epsilon {number(clip.epsilon)}")
    for how, text in ways.items():
        if how != clip.how:
            for epsilon in (0.0, CLIP_EPSILON) if how != "value" else (0.0,):
                yield _form(rule, "clip", text, _set(clip=Clip(how, clip.limit, epsilon)), theirs)
    for limit in _LIMITS:
        if limit != clip.limit:
            for epsilon in {clip.epsilon, 0.0}:
                line = f"JAX clips gradients at {number(limit)} where PyTorch does at {number(clip.limit)}"
                yield Mistake("clip", line, "", _set(clip=Clip(clip.how, limit, epsilon)))


def _rates(rule: Rule) -> Iterator[Mistake]:
    rates = rule.options["lr"]
    maximize = rule.options["maximize"]
    yield _form(rule, "sign", "gradient's sign", _tell(maximize=1 - maximize))
    for value in dict.fromkeys(rates[0]):
        if (rates[0] != value).any():
            one = rates[:, list(rates[0]).index(value)][:, None]
            yield _form(
                rule, "groups", f"one learning rate {number(value)}", _tell(lr=one), f"{several(rates[0])} by group"
            )
