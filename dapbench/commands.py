"""The commands that Hydra configures; torch is imported only once the configuration stands."""

from typing import Any

from dapbench.config import run_command


def train(argv: list[str]) -> int:
    """`dapbench train`."""

    def run(config: dict[str, Any]) -> None:
        from dapbench.on_policy.training import train

        train(config)

    return run_command("train", run, argv)


def collect(argv: list[str]) -> int:
    """`dapbench collect`."""

    def run(config: dict[str, Any]) -> None:
        from dapbench.collect import collect

        collect(config)

    return run_command("collect", run, argv)


def pretrain(argv: list[str]) -> int:
    """`dapbench pretrain`."""

    def run(config: dict[str, Any]) -> None:
        from dapbench.prior.pretraining import pretrain

        pretrain(config)

    return run_command("pretrain", run, argv)


def evaluate(argv: list[str]) -> int:
    """`dapbench evaluate`."""

    def run(config: dict[str, Any]) -> None:
        from dapbench.on_policy.evaluation import evaluate_run

        evaluate_run(config)

    return run_command("evaluate", run, argv)


def overhead(argv: list[str]) -> int:
    """`dapbench overhead`."""

    def run(config: dict[str, Any]) -> None:
        from dapbench.overhead import overhead

        overhead(config)

    return run_command("overhead", run, ["json=true" if argument == "--json" else argument for argument in argv])
