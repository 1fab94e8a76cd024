"""Command `etude train`, the entry point of every experiment, as in `python train.py backbone=ast task=multitask`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etude.cli.runner import guard_command
from etude.config.compose import help_text, parse_arguments, run_hydra
from etude.config.override_errors import format_errors, override_errors
from etude.errors import Refused, RunError, UserError
from etude.experiment import start
from etude.files import os_errors
from etude.sweeps import launcher
from etude.sweeps.progress import STATUS, discard_unused_folder, report_error
from etude.system import signals
from etude.system.machine import use_utf8

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Compose, validate and run a config, or every job of a sweep with `-m`.

    Args:
        argv: Hydra overrides and options. None uses the command line.

    Returns:
        0 if the results are on disk, even if a tracker did not receive them; 1 if a run failed; 2 if the command, the
        config or the data must be corrected; 130 after Ctrl-C; 143 after SIGTERM.
    """
    if argv is None:
        use_utf8()
    return guard_command(lambda: _train(argv), os_errors.RUN_REMEDY, is_last=argv is None)


def _train(argv: Sequence[str] | None) -> int:
    """Run the given arguments, or the arguments of the command line."""
    if argv is not None:
        sys.argv = [sys.argv[0], *argv]
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(help_text(sys.argv[1:]))  # noqa: T201
        return 0
    from etude.sweeps.callback import OutputCheck, check_third_party  # heavy: hydra

    try:
        flags = parse_arguments(sys.argv[1:])
        sys.argv[1:] = flags.ordered  # Hydra refuses flags between overrides
        if flags.experimental_rerun:  # it would unpickle a file, which may run code
            raise UserError(
                "--experimental-rerun: is not supported; use the run's config.yaml, which contains all values"
            )
        start.prepare(flags.overrides)
        launcher.prepare(flags.overrides, flags.multirun)
        # Hydra creates the folder of a sweep before it checks the overrides
        if flags.multirun and (
            messages := override_errors(flags.overrides, True, flags.config_dir, flags.config_name or "train")
        ):
            raise UserError(format_errors(messages))
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201
        report_error(str(error))
        return 2
    except SystemExit:  # --version
        return 0
    state: dict[str, Any] = {"status": 0, "advice": ""}

    def task(config: Any) -> float | None:
        STATUS.started = True
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with os_errors.explain_errors(folder, os_errors.RUN_REMEDY):
                score = start.run_composed(config, folder)
            start.close(folder)
            return score
        except KeyboardInterrupt:
            state["advice"] = start.resume_advice(folder)
            raise
        except (UserError, RunError) as error:
            refused = isinstance(error, UserError) and state["status"] != 1  # an earlier job may have failed
            state["status"] = 2 if refused else 1
            if config.get("resume") and isinstance(error, UserError):
                start.remove_log_handlers(folder)  # an invalid command does not belong in the log of the existing run
            report_error(str(error))
            if str(error):
                log.error("%s%s", error, "" if isinstance(error, UserError) else start.resume_advice(folder))
            start.close(folder)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            return None
        except Exception as error:
            state["status"] = 1
            message = f"{type(error).__name__}: {error}"
            report_error(message)
            log.error("%s", message)  # into the run's log; the traceback follows on the screen
            start.close(folder)
            raise

    try:
        run_hydra(task, OutputCheck(), lambda output_dir, name: check_third_party(output_dir, (name,)))
    except (UserError, RunError) as error:
        if not STATUS.started:
            print(error, file=sys.stderr)  # noqa: T201
            report_error(str(error))
        return state["status"] or 2
    except KeyboardInterrupt as error:
        report_error(signals.describe(error))
        signals.report(signals.advise(error, STATUS.advice or state["advice"]))  # before the run's log is closed
        raise
    except Refused as refusal:
        print(refusal.error, file=sys.stderr)  # noqa: T201
        report_error(str(refusal.error))
        return 1 if isinstance(refusal.error, RunError) else 2
    except SystemExit as stop:
        if stop.code in (0, None):
            return STATUS.exit_status
        return state["status"] or (1 if STATUS.started else 2)
    except Exception as error:
        name = flags.config_name or "train"
        if STATUS.started or not (
            messages := override_errors(flags.overrides, flags.multirun, flags.config_dir, name, error)
        ):
            if not STATUS.started:
                report_error(f"{type(error).__name__}: {error}")
            raise
        start.discard_all()
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            log.exception("the error of Hydra")
        print(format_errors(messages), file=sys.stderr)  # noqa: T201
        report_error(format_errors(messages))
        return 2
    finally:
        discard_unused_folder()
        start.close_all()
    return state["status"] or STATUS.exit_status


if __name__ == "__main__":
    sys.exit(main())
