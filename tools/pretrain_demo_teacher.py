"""Pretrain a teacher: a narrow, deep model with a small byte-level vocabulary.

    python tools/pretrain_demo_teacher.py --books BOOKS --work WORK --minutes 150

By default the demo's, a Qwen3 of 16 layers. One of GPT-2's architecture (docs/pairs.md):

    ... --architecture gpt2 --layers 12 --length 64 --batch 16 --lr 3e-3

BOOKS holds train.txt, valid.txt and test.txt (see demo_books.py) and list.json (a row per book:
split, author, title, year). Everything the run makes is kept in WORK:

    tokenizer.json, {train,valid,test}.bin, data.json   the tokenizer and the encoded books
    checkpoint.pt   the newest state; the same command continues from it
    hold.pt         the state just before the learning rate began to fall
    log.jsonl       one JSON row per report: steps, tokens, loss, lr, speed, held-out perplexity
    pid             the process id of the run
    teacher/        the result, a plain transformers checkpoint

The learning rate warms up, is held, and falls linearly to zero at the end of the budget. The budget
is `--minutes` of active time (a step counts for at most a minute, so a stopped process loses
nothing) or `--steps`, both counted from the run's first beginning. To steer a run:

    kill -TERM PID                        save and exit; the same command continues
    kill -USR1 PID                        begin the decay now; it takes --decay
    ... --minutes 0 --decay 10            after an exit: decay within 10 minutes and finish
    ... --from-hold --minutes 400         after the end: go on from hold.pt, before the decay
                                          (continue that run, once begun, without --from-hold)

On a GPU the forward pass runs in bfloat16 autocast; use large batches there (`--batch 512`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from demo_books import EOS, Data, Windows, prepare_data, write_text

# Seconds; what a step may count for at most, so that a stopped process keeps its budget.
LONGEST_STEP = 60.0
EVALUATION_WINDOWS = 128


# ---------------------------------------------------------------------------------------- the model


def qwen3(args: argparse.Namespace) -> PreTrainedConfig:
    """Half as many key-value heads as heads."""
    return Qwen3Config(
        vocab_size=args.vocabulary,
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=max(1, args.heads // 2),
        head_dim=args.width // args.heads,
        intermediate_size=args.width * 11 // 4,
        max_position_embeddings=args.length,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def gpt2(args: argparse.Namespace) -> PreTrainedConfig:
    """GPT-2's own shape; without dropout, as each text is seen a few times at most.

    Its first weights are drawn as wide as GPT-2's own are for their width, 0.02 at 768. Positions
    are learned here, and attention finds its neighbours late: in rows of 256 tokens the loss still
    stood where pairs of tokens leave it after two million tokens, in rows of 64 it did not.
    """
    return GPT2Config(
        initializer_range=0.02 * math.sqrt(768 / args.width),
        vocab_size=args.vocabulary,
        n_positions=args.length,
        n_embd=args.width,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


ARCHITECTURES = {"qwen3": qwen3, "gpt2": gpt2}


def build_model(args: argparse.Namespace) -> PreTrainedModel:
    """The untrained teacher, seeded, in float32 on the CPU."""
    torch.manual_seed(args.seed)
    config = ARCHITECTURES[args.architecture](args)
    config.use_cache = False  # the cache only costs time in training; the saved config allows it
    return AutoModelForCausalLM.from_config(config)


def build_optimizer(model: PreTrainedModel, weight_decay: float) -> torch.optim.AdamW:
    """Fused AdamW with betas 0.9 and 0.95; the norms' scales are not decayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)


def token_losses(model: PreTrainedModel, batch: Tensor) -> Tensor:
    """Cross-entropy in nats of every target of `batch` (sequences, length + 1), flat, float32."""
    device = model.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        logits = model(input_ids=batch[:, :-1]).logits
    return functional.cross_entropy(
        logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
    )


@torch.no_grad()
def evaluate(
    model: PreTrainedModel, data: Data, split: str, args: argparse.Namespace, limit: int | None
) -> dict[str, float]:
    """Perplexity per token and bits per byte of the text, on windows that do not overlap.

    Args:
        model: The model to measure.
        data: The encoded books.
        split: The held-out split.
        args: Length of a window and sequences of a batch.
        limit: How many windows, spread evenly over the split; None for all of it.

    Returns:
        `perplexity`, `bits_per_byte` and the number of targets `scored`.
    """
    tokens = data.tokens[split]
    starts = list(range(0, len(tokens) - args.length, args.length))
    if limit is not None:
        starts = starts[:: max(1, len(starts) // limit)][:limit]
    token_bytes = data.token_bytes
    nats, text_bytes, count = 0.0, 0, 0
    for first in range(0, len(starts), args.batch):
        rows = [tokens[at : at + args.length + 1] for at in starts[first : first + args.batch]]
        batch = torch.from_numpy(np.stack(rows).astype(np.int64))
        nats += token_losses(model, batch.to(model.device)).double().sum().item()
        text_bytes += int(token_bytes[batch[:, 1:]].sum())
        count += batch[:, 1:].numel()
    return {
        "perplexity": math.exp(nats / max(1, count)),
        "bits_per_byte": nats / math.log(2) / max(1, text_bytes),
        "scored": count,
    }


# ------------------------------------------------------------------------------------- the training


@dataclass
class Progress:
    """Where the run stands; together with weights and optimizer it is the whole state.

    Args:
        step: Optimizer steps done.
        sequences: Sequences used, the position in the data order.
        tokens: Tokens trained on.
        seconds: Active time spent.
        decay: Begin and end of the decay on the budget's clock, once it has begun.
    """

    step: int = 0
    sequences: int = 0
    tokens: int = 0
    seconds: float = 0.0
    decay: tuple[float, float] | None = None


@dataclass
class Requests:
    """What signals have asked of the run; read between steps."""

    stop: bool = False
    decay: bool = False


@contextmanager
def listen() -> Iterator[Requests]:
    """Turn SIGTERM and SIGINT into `stop` and SIGUSR1 into `decay`, within the block."""
    requests = Requests()

    def stop(*_: object) -> None:
        requests.stop = True

    def decay(*_: object) -> None:
        requests.decay = True

    handlers: dict[signal.Signals, Callable[..., None]]
    handlers = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: decay}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def learning_rate(args: argparse.Namespace, progress: Progress, clock: float) -> float:
    """Linear warmup by steps, then constant, then linear to zero over `progress.decay`."""
    rate: float = args.lr * min(1.0, (progress.step + 1) / args.warmup)
    if progress.decay is not None:
        begin, end = progress.decay
        rate *= max(0.0, (end - clock) / (end - begin))
    return rate


class Run:
    """One pretraining: weights, optimizer and progress, and the files that keep them.

    Args:
        args: The command line.
        data: The encoded books.

    Raises:
        SystemExit: A checkpoint in the work folder belongs to a run of other settings.
    """

    def __init__(self, args: argparse.Namespace, data: Data) -> None:
        self.args, self.data = args, data
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if args.device == "auto" else args.device)
        self.model = build_model(args)
        self.model.to(self.device)  # type: ignore[arg-type]  # transformers' wrapper hides its types
        self.optimizer = build_optimizer(self.model, args.weight_decay)
        self.progress = Progress()
        self.windows = Windows(data.tokens["train"], args.length, args.seed)
        names = ("architecture", "vocabulary", "width", "layers", "heads", "length", "seed")
        self.identity = {name: getattr(args, name) for name in names} | data.fingerprint
        name = "hold.pt" if args.from_hold else "checkpoint.pt"
        if args.from_hold or (args.work / name).exists():
            self._load(args.work / name)

    def clock(self) -> float:
        """How much of the budget is spent, in steps or active seconds."""
        return self.progress.step if self.args.steps is not None else self.progress.seconds

    def train(self, requests: Requests) -> bool:
        """Train until the decay has ended (True) or a signal asks to stop (False)."""
        args, progress = self.args, self.progress
        unit = 1.0 if args.steps is not None else 60.0
        budget = unit * (args.minutes if args.steps is None else args.steps)
        decay = 0.2 * budget if args.decay is None else unit * args.decay
        self.log(event="start", device=str(self.device), parameters=self.model.num_parameters())
        reported = evaluated = saved = progress.seconds
        losses: list[Tensor] = []
        previous = time.monotonic()
        while not requests.stop:
            if progress.decay is None and (requests.decay or self.clock() >= budget - decay):
                self.save("hold.pt")
                progress.decay = (self.clock(), self.clock() + max(decay, 1e-9))
                self.log(event="decay", until=progress.decay[1])
            if progress.decay is not None and self.clock() >= progress.decay[1]:
                self.save("checkpoint.pt")
                return True
            losses.append(self.step())
            if progress.seconds - reported >= args.report_seconds:
                speed = len(losses) * args.batch * args.length / (progress.seconds - reported)
                loss = torch.stack(losses).mean().item()
                self.log(event="train", loss=loss, tokens_per_second=round(speed))
                reported, losses = progress.seconds, []
            if progress.seconds - evaluated >= 60 * args.evaluate_minutes:
                result = evaluate(self.model, self.data, "valid", args, EVALUATION_WINDOWS)
                self.log(event="valid", **result)
                evaluated = progress.seconds
            if progress.seconds - saved >= 60 * args.save_minutes:
                self.save("checkpoint.pt")
                saved = progress.seconds
            now = time.monotonic()
            progress.seconds += min(now - previous, LONGEST_STEP)
            previous = now
        self.save("checkpoint.pt")
        self.log(event="stop")
        return False

    def step(self) -> Tensor:
        """One optimizer step; returns its mean loss in nats, not yet read from the device."""
        args, progress = self.args, self.progress
        batch = self.windows.batch(progress.sequences, args.batch).to(self.device)
        loss = token_losses(self.model, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(args, progress, self.clock())
        self.optimizer.step()
        self.optimizer.zero_grad()
        progress.step += 1
        progress.sequences += args.batch
        progress.tokens += args.batch * args.length
        return loss.detach()

    def save(self, name: str) -> None:
        """Write the whole state to `name` in the work folder, in one move."""
        state = {
            "identity": self.identity,
            "progress": asdict(self.progress),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.args.work / name
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def _load(self, path: Path) -> None:
        if not path.exists():
            raise SystemExit(f"{path}: not there; --from-hold needs a run that has begun its decay")
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            raise SystemExit(f"{path}: from a run of other settings; use a new --work")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def log(self, **row: object) -> None:
        """Append a row to log.jsonl and show it on standard error."""
        progress = self.progress
        where = {
            "step": progress.step,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 1),
            "lr": learning_rate(self.args, progress, self.clock()),
        }
        line = json.dumps(row | where | {"time": time.strftime("%H:%M:%S")})
        with (self.args.work / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------- the result


def write_teacher(run: Run, out: Path) -> None:
    """Measure the model on all of test.txt; write it as a transformers checkpoint with a card."""
    result = evaluate(run.model, run.data, "test", run.args, None)
    run.log(event="test", **result)
    folder = out.with_name(out.name + ".tmp")
    run.model.config.use_cache = True
    run.model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=0, do_sample=True, temperature=0.7
    )
    run.model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=run.data.tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(run, result), encoding="utf-8")
    if out.exists():
        os.replace(out, out.with_name(f"{out.name}-before-{int(time.time())}"))
    os.replace(folder, out)


def model_card(run: Run, result: dict[str, float]) -> str:
    """The README of the teacher: what it is, how it was made, how good it is, which books."""
    args, config = run.args, run.model.config
    rows = json.loads((args.books / "list.json").read_text(encoding="utf-8"))

    def titles(split: str) -> str:
        chosen = [row for row in rows if row["split"] == split]
        return "\n".join(f"- {row['author']}, {row['title']}" for row in chosen)

    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# books-{args.architecture}-{config.num_hidden_layers}x{config.hidden_size}

A small language model of old English books, deep for its size, so that a family of models between
it and a distilled student can be made and measured in minutes on a laptop. It is for demonstration
and tests; it speaks the language of novels and knows nothing.

| | |
|---|---|
| architecture | {type(run.model).__name__} |
| layers, width | {config.num_hidden_layers} x {config.hidden_size}, \
{config.num_attention_heads} heads |
| vocabulary | {config.vocab_size}, byte-level BPE; embedding and head are tied |
| parameters | {run.model.num_parameters():,}, float32 |
| trained on | {run.progress.tokens:,} tokens in {run.progress.step:,} steps of {args.batch} \
sequences of {args.length}; an end-of-text token between books |
| optimiser | AdamW (0.9, 0.95), learning rate {args.lr:g}, held and then linear to zero |
| time | {run.progress.seconds / 60:,.0f} minutes on {run.device}, threads: {args.threads} |
| quality | perplexity {result["perplexity"]:.2f} per token, {result["bits_per_byte"]:.3f} bits \
per byte on all held-out test books ({result["scored"]:,.0f} tokens, windows of {args.length}) |

From scratch, on public-domain books in English, by `tools/pretrain_demo_teacher.py` (seed
{args.seed}). Licence: Apache-2.0, like the code.

## Books trained on

{titles("train")}

## Books held out

Validation:

{titles("valid")}

Test:

{titles("test")}
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--books", type=Path, required=True, help="folder with the books")
    parser.add_argument("--work", type=Path, required=True, help="folder for the run's files")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="budget in minutes of active time")
    budget.add_argument("--steps", type=int, help="budget in steps (then exactly repeatable)")
    parser.add_argument("--decay", type=float, help="minutes or steps of decay (a fifth of budget)")
    parser.add_argument("--from-hold", action="store_true", help="continue from hold.pt")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="qwen3")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="sequences a step")
    parser.add_argument("--length", type=int, default=256, help="tokens a sequence")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--report-seconds", type=float, default=30.0)
    parser.add_argument("--evaluate-minutes", type=float, default=10.0)
    parser.add_argument("--save-minutes", type=float, default=3.0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Pretrain until the budget is spent or a signal asks to stop; 0 in both cases."""
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    args.work.mkdir(parents=True, exist_ok=True)
    write_text(args.work / "pid", f"{os.getpid()}\n")
    run = Run(args, prepare_data(args.books, args.work, args.vocabulary))
    with listen() as requests:
        finished = run.train(requests)
    if finished:
        write_teacher(run, args.work / "teacher")
    return 0


if __name__ == "__main__":
    sys.exit(main())
