"""The training, from top to bottom: float -> fold batch norm -> learn widths -> freeze them -> fine-tune.

Every random choice is a function of the seed and the step, and a checkpoint holds all that a step changes, so a run
that was killed and resumed ends with the same weights, bit for bit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from quantunet.losses import segmentation_loss
from quantunet.metrics.overlap import dice_score
from quantunet.nn import widths
from quantunet.nn.prepare import freeze_bit_widths_
from quantunet.nn.removal import load_smaller_, remove_channels_
from quantunet.nn.unet import UNet, masks_of
from quantunet.train.batches import TrainingSet, sample_batch
from quantunet.train.bit_term import bit_term
from quantunet.train.budget import TOLERANCE, Budget, BudgetController, Kind
from quantunet.train.build import build_float_network, build_quantized_network
from quantunet.train.channels import update_importance_
from quantunet.train.config import Config, PhaseConfig, QatConfig
from quantunet.train.optim import build_optimizer, set_learning_rates, width_learning_rate
from quantunet.train.processes import sum_over_processes
from quantunet.train.progress import PhaseProgress
from quantunet.train.run_dir import FLOAT_FILE, QAT_FILE, RESUME_FILE, RunDir, point_file
from quantunet.train.size import Measures, Sizes
from quantunet.train.teacher import build_teacher, teacher_loss

CALIBRATION_BATCHES = 4
REMOVE_EVERY = 20
"""Steps of the qat phase between removals of channels of 0 bits: until then, a channel may come back."""
GRADIENT_NORM = 5.0
"""Gradients of the weights are clipped to this norm: it acts on outliers only."""


@dataclass(frozen=True)
class ValidationCase:
    """Padded images (s, c, h, w) of one case, its masks (s, h, w), and the box of the image inside the padding."""

    images: NDArray[np.float32]
    masks: NDArray[np.uint8]
    box: tuple[slice, slice]


@dataclass(frozen=True)
class TrainingData:
    """All that the loop reads."""

    training: TrainingSet
    validation: Sequence[ValidationCase]
    channels: int
    classes: int


@dataclass(frozen=True)
class Trained:
    """The two networks of a run, on the CPU, in evaluation mode; ``quantized`` is None for the float baseline."""

    float_network: UNet
    quantized: UNet | None
    time_s: dict[str, float]
    validation_dice: dict[str, float]


def train(
    config: Config, data: TrainingData, run: RunDir, fabric: Fabric, measures: Measures, console: Console
) -> Trained:
    """Train as ``config`` says, going on from the folder's last checkpoint where there is one."""
    resume = run.load_tensors(RESUME_FILE) or {"phase": "float", "time_s": {}}
    context = _Context(config, data, run, fabric, console, resume, time_s=dict(resume["time_s"]))
    phases = config.training

    # 1. a float network with batch norm
    float_network = build_float_network(config.network, data.channels, data.classes, config.seed)
    if resume["phase"] == "float":
        _run_phase("float", phases.float_phase, float_network, context, first_step=0)
        run.save_tensors(FLOAT_FILE, float_network.state_dict())
        fabric.barrier()  # the other processes read what the first has written
    _load(float_network.cpu().eval(), run, FLOAT_FILE)
    if config.quantizer.name == "float":
        return _trained(float_network, None, context)

    # 2. fold batch norm, quantize every layer, calibrate on a few training batches
    if config.loss.needs_teacher:
        context.teacher = build_teacher(float_network, fabric.device)
    network = build_quantized_network(float_network, config.quantizer, _calibration_batches(config, data))
    sizes = _build_sizes(network, measures, context)

    # 3. train weights, scales and widths together; then freeze the widths to integers that meet the budget
    first_step = phases.float_phase.steps
    if resume["phase"] != "finetune":
        _run_phase("qat", phases.qat, network, context, first_step, sizes)
        run.save_tensors(QAT_FILE, network.state_dict())
        fabric.barrier()
    _load(network.cpu(), run, QAT_FILE)
    freeze_bit_widths_(network, 0.5 if sizes is None else sizes.freezing())
    remove_channels_(network)
    if sizes is not None:
        sizes.refresh(network)
        _say_sizes(sizes, config.budgets, console)

    # 4. a short fine-tuning of the weights at the frozen widths and scales
    _run_phase("finetune", phases.finetune, network, context, first_step + phases.qat.steps)
    run.save_tensors("checkpoints/final.pt", network.state_dict())
    return _trained(float_network, network, context)


def _trained(float_network: UNet, quantized: UNet | None, context: _Context) -> Trained:
    networks = {"float": float_network.cpu().eval()}
    if quantized is not None:
        networks["quantized"] = quantized.cpu().eval()
    dice = {name: validate(network, context.data) for name, network in networks.items()}
    return Trained(float_network, quantized, context.time_s, dice)


def refuse_impossible_budget(config: Config, data: TrainingData, measures: Measures) -> None:
    """Before hours of training, on an untrained network: its size hardly depends on the weights' values.

    Raises:
        UserError: if even the narrowest widths exceed a budget.
    """
    if config.budgets and config.quantizer.learns_widths:
        untrained(config, data, measures, config.budgets).check_feasible()


def untrained(config: Config, data: TrainingData, measures: Measures, budgets: Sequence[Budget]) -> Sizes:
    """The sizes of the network before any training, at its first widths, in the unit of each of ``budgets``."""
    network = build_float_network(config.network, data.channels, data.classes, config.seed)
    quantized = build_quantized_network(network, config.quantizer, _calibration_batches(config, data)[:1])
    return Sizes(budgets, quantized, measures)


@dataclass
class _Context:
    config: Config
    data: TrainingData
    run: RunDir
    fabric: Fabric
    console: Console
    resume: dict[str, Any]
    time_s: dict[str, float] = field(default_factory=dict)
    teacher: UNet | None = None
    """The float network, once it is trained: what the quantized one computes shall stay near it."""


def _run_phase(
    phase: str, plan: PhaseConfig, network: UNet, context: _Context, first_step: int, sizes: Sizes | None = None
) -> None:
    """Train ``network`` in place; float and finetune end with the weights that ``select`` says, qat with the last."""
    config, data, run, fabric = context.config, context.data, context.run, context.fabric
    training, learns_widths = config.training, isinstance(plan, QatConfig)
    keeps_best = not learns_widths and training.select == "best"
    network.train()
    optimizer = build_optimizer(
        network,
        plan.learning_rate,
        training.weight_decay,
        (plan.width_learning_rate or width_learning_rate(_descent_steps(plan)))
        if isinstance(plan, QatConfig)
        else None,
    )
    controllers: dict[Kind, BudgetController] = {}
    if isinstance(plan, QatConfig) and sizes is not None and config.bit_loss.fixed_weight is None:
        controllers = _build_controllers(plan, sizes)
    best: dict[str, Any] = {"dice": -1.0, "step": 0, "state": None}
    first, elapsed = 0, 0.0
    if context.resume.get("phase") == phase and "step" in context.resume:
        saved = context.resume
        first, elapsed, best = saved["step"], saved["elapsed_s"], saved["best"]
        load_smaller_(network, saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        if sizes is not None:
            controllers = _saved_controllers(saved["controllers"], sizes)
            sizes.held = dict(saved["held"])
    if fabric.is_global_zero:
        run.forget_metrics_after(first_step + first)
    raw_optimizer = optimizer
    module, optimizer = fabric.setup(network, raw_optimizer)
    module.mark_forward_method(network.logits_and_features)
    started = time.monotonic() - elapsed
    bit_loss_weights: dict[Kind, float] = {}
    if learns_widths and config.quantizer.learns_widths:
        bit_loss_weights = {"bits": config.bit_loss.fixed_weight or 0.0}
    may_remove = fabric.world_size == 1  # between several processes, gradients keep their shape until the end

    def state_at(done: int) -> dict[str, Any]:
        """All that the steps so far have changed: what a run goes on from."""
        return {
            "phase": phase,
            "step": done,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "controllers": {kind: asdict(controller) for kind, controller in controllers.items()},
            "held": dict(sizes.held) if sizes else {},
            "best": best,
            "elapsed_s": time.monotonic() - started,
            "time_s": context.time_s,
        }

    with PhaseProgress(phase, plan.steps, first, context.console, fabric.is_global_zero) as progress:
        for step in range(first, plan.steps):
            if keeps_best and plan.patience and step - best["step"] >= plan.patience * training.validate_every:
                context.console.print(f"{phase}: no better validation Dice since step {best['step']}: stops early")
                break
            # one step: crops -> logits -> BCE + soft Dice + bit-width term -> weights, scales, widths
            set_learning_rates(optimizer, step, plan.steps)
            widths.set_progress_(network, step / plan.steps if learns_widths else 1.0)
            images, target = _draw(config, data, first_step + step, fabric)
            removes = learns_widths and may_remove and step % REMOVE_EVERY == 0
            if removes and not (sizes is not None and controllers and sizes.is_below_plan(controllers, step)):
                remove_channels_(network, raw_optimizer)
            if sizes is not None and controllers:
                if step % REMOVE_EVERY == 0:
                    if may_remove and step > 0:  # at first, no channel's importance is known
                        sizes.drop_channels_(lambda budget: controllers[budget.kind].planned(step), raw_optimizer)  # noqa: B023
                    sizes.refresh()
                bit_loss_weights = sizes.steer(controllers, step)
                if fabric.is_global_zero:
                    _keep_points(config.points, sizes, run, lambda: state_at(step))  # noqa: B023
            loss = _backward(module, images, target, context, network, bit_loss_weights)
            if sizes is not None and sizes.drops_channels:
                update_importance_(network)
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if learns_widths:
                widths.project_(network)

            # what to keep, what to show
            done = step + 1
            record: dict[str, Any] = {"phase": phase, "step": first_step + step}
            if done % training.validate_every == 0 or done == plan.steps:
                # batch norm's statistics differ between processes: the first one decides, so that all stop together
                record["val_dice"] = fabric.broadcast(validate(network, data) if fabric.is_global_zero else 0.0)
                if record["val_dice"] > best["dice"] and keeps_best:
                    state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
                    best = {"dice": record["val_dice"], "step": done, "state": state}
            if done % 10 == 0 or "val_dice" in record:
                record |= {key: value.item() for key, value in loss.items() if key != "bit_loss" or phase != "float"}
                record |= {"lr": optimizer.param_groups[0]["lr"], "time_s": time.monotonic() - started}
                if phase != "float":
                    record |= {"bit_loss_weight": next(iter(bit_loss_weights.values()), 0.0)}
                    record |= {"weight_bits": widths.weight_bits(network)}
                    record |= {"activation_bits": widths.activation_bits(network)}
                    if sizes is not None and learns_widths:
                        record["sizes"] = {budget.kind: sizes.now(budget) for budget in sizes.budgets}
                    if "val_dice" in record:
                        record["layers"] = widths.widths_by_layer(network)
                if fabric.is_global_zero:
                    run.log(record)
                progress.advance(done, _status(record, best["dice"]))
            if done % training.checkpoint_every == 0 and fabric.is_global_zero:
                run.save_tensors(RESUME_FILE, state_at(done))
    if keeps_best and best["state"] is not None:
        network.load_state_dict(best["state"])
    if sizes is not None and learns_widths and fabric.is_global_zero:
        _keep_points(config.points, sizes, run, lambda: state_at(plan.steps), is_last=True)
    context.time_s[phase] = time.monotonic() - started


def _keep_points(
    points: Sequence[Budget], sizes: Sizes, run: RunDir, state: Callable[[], dict[str, Any]], is_last: bool = False
) -> None:
    """Keep the state at the first step at which the network is as small as a point of the Pareto curve, or the last."""
    for point in points:
        name = point_file(point)
        if (is_last or sizes.now(point) <= point.amount) and not (run.path / name).exists():
            run.save_tensors(name, state())


def _backward(
    module: torch.nn.Module,
    images: Tensor,
    target: Tensor,
    context: _Context,
    network: UNet,
    bit_loss_weights: Mapping[Kind, float],
) -> dict[str, Tensor]:
    """The gradients of one batch, and the parts of its loss.

    No graph outlives it: a parameter whose channels are removed must not be remembered in its former shape.
    """
    config, fabric = context.config, context.fabric
    if context.teacher is not None and config.loss.feature_distillation > 0:
        logits, features = module.logits_and_features(images)  # pyright: ignore[reportCallIssue]
    else:
        logits, features = module(images), []
    logits = logits.float()
    sum_over = sum_over_processes if fabric.world_size > 1 else None
    loss = segmentation_loss(logits, target, config.loss.bce, config.loss.dice, sum_over)
    total, bit_loss = loss.total, torch.zeros(())
    if context.teacher is not None:
        total = total + teacher_loss(context.teacher, images, logits, features, config.loss)
    for kind, weight in bit_loss_weights.items():
        term = bit_term(kind, network, config.bit_loss, weight)
        bit_loss, total = bit_loss + term.detach(), total + weight * term
    fabric.backward(total)
    parts = {"loss": total, "bce": loss.bce, "dice_loss": loss.dice_loss, "bit_loss": bit_loss}
    return {name: value.detach() for name, value in parts.items()}


def _draw(config: Config, data: TrainingData, step: int, fabric: Fabric | None) -> tuple[Tensor, Tensor]:
    """This process's share of the batch of ``step``; None: the whole batch, on the CPU."""
    training = config.training
    rank, processes = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    indices = range(rank, training.batch_size, processes)
    images, target = sample_batch(
        data.training, config.seed, step, indices, training.crop_px, training.foreground_share, config.augmentation
    )
    return (fabric.to_device(images), fabric.to_device(target)) if fabric else (images, target)


def _calibration_batches(config: Config, data: TrainingData) -> list[Tensor]:
    return [_draw(config, data, step, fabric=None)[0] for step in range(CALIBRATION_BATCHES)]


def _build_sizes(network: UNet, measures: Measures, context: _Context) -> Sizes | None:
    config = context.config
    if not (config.budgets and config.quantizer.learns_widths):
        return None
    sizes = Sizes(config.budgets, network, measures)
    steers = config.bit_loss.fixed_weight is None and context.fabric.world_size == 1
    may_vanish = config.quantizer.weight.min_bit_width == 0
    limit = sizes.limit_operations_() if steers and may_vanish else None
    if limit is not None:
        text = f"widths alone would have to fall too far: channels go too, down to {limit}"
        context.console.print(text, highlight=False)
    return sizes


def _build_controllers(plan: QatConfig, sizes: Sizes) -> dict[Kind, BudgetController]:
    starts = {budget: sizes.now(budget) for budget in sizes.budgets}
    steps = _descent_steps(plan)
    return {each.kind: BudgetController(start, min(start, each.amount), steps) for each, start in starts.items()}


def _saved_controllers(saved: Mapping[Kind, dict[str, float]], sizes: Sizes) -> dict[Kind, BudgetController]:
    """As a checkpoint has them; one of a descent to a smaller size holds this run's size from now on."""
    controllers = {}
    for budget in sizes.budgets if saved else ():
        controller = BudgetController(**saved[budget.kind])  # pyright: ignore[reportArgumentType]
        if controller.target < min(controller.start, budget.amount):
            controller = replace(controller, start=budget.amount, target=budget.amount)
        controllers[budget.kind] = controller
    return controllers


def _descent_steps(plan: QatConfig) -> int:
    return max(1, round(plan.descent * plan.steps))


def _say_sizes(sizes: Sizes, budgets: Sequence[Budget], console: Console) -> None:
    for budget in budgets:
        reached = Budget(budget.kind, sizes.now(budget))
        away = reached.amount / budget.amount - 1
        verdict = "met" if away <= TOLERANCE else "NOT MET: more steps in training.qat, or a larger budget"
        console.print(
            f"widths frozen: {reached} of a budget of {budget} ({100 * away:+.1f} %): {verdict}", highlight=False
        )


@torch.no_grad()
def validate(network: UNet, data: TrainingData) -> float:
    """Mean over validation cases and foreground classes of the hard Dice, pooled over a case's slices."""
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    scores = []
    for case in data.validation:
        predicted = np.stack([predict_mask(network, image, device)[case.box] for image in case.images])
        scores += [dice_score(predicted == k, case.masks == k) for k in range(1, data.classes)]
    network.train(was_training)
    return float(np.mean(scores))


@torch.no_grad()
def predict_mask(network: UNet, image: NDArray[np.float32], device: torch.device | None = None) -> NDArray[np.uint8]:
    """Mask (h, w) of one padded image (c, h, w): logit > 0, or the arg-max over classes."""
    parameter = next(network.parameters())
    logits = network(torch.from_numpy(image)[None].to(device or parameter.device, parameter.dtype))
    return masks_of(logits)[0].cpu().numpy().astype(np.uint8)


def _status(record: dict[str, Any], best_dice: float) -> str:
    text = f"loss {record['loss']:.3f}"
    if best_dice >= 0:
        text += f"  best val Dice {best_dice:.4f}"
    elif "val_dice" in record:
        text += f"  val Dice {record['val_dice']:.4f}"
    if "weight_bits" in record:
        text += f"  bits {record['weight_bits']:.2f} / {record['activation_bits']:.2f}"
    return text


def _load(network: UNet, run: RunDir, name: str) -> None:
    state = run.load_tensors(name)
    assert state is not None, name
    load_smaller_(network, copy.deepcopy(state))
