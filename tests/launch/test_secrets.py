"""Secrets in the environment: no other user of the machine reads them off a command line, and no log shows them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid

import psutil
import pytest

from hvdkit.launch.env_allowlist import may_be_seen
from tests.horovod_build.environments import REPOSITORY
from tests.machine import launcher_of

S = f"s3cret-{uuid.uuid4().hex}"
# As people have them: no pattern of names or values would find them all.
SHAPES = {
    "DB_PASS": S,
    "MYSQL_PWD": S,
    "SSHPASS": S,
    "PGPASSWORD": S,
    "GH_PAT": f"ghp_{S}",
    "BEARER": f"Bearer {S}",
    "COOKIE": f"session={S}; path=/",
    "SLACK_HOOK": f"https://hooks.example.com/services/T0/B0/{S}",
    "SENTRY_DSN": f"https://{S}@o1.example.com/2",
    "SIGNED": f"https://bucket.example.com/data?X-Sig={S}&e=1",
    "DATABASE_URL": f"postgres://me:{S}@db/x",
    "HTTP_PROXY": f"http://me:{S}@proxy:3128",
    "http_proxy": f"http://{S}@proxy:3128",
    "PIP_INDEX_URL": f"https://__token__:{S}@pypi.example.com/simple",
    "GOOGLE_JSON": json.dumps({"type": "service_account", "private_key": f"-----BEGIN PRIVATE KEY-----\n{S}\n"}),
    "PEM": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{S}\n-----END OPENSSH PRIVATE KEY-----\n",
    "WANDB_API_KEY": S,
    "AWS_SECRET_ACCESS_KEY": S,
    "AWS_SESSION_TOKEN": S,
    "HF_TOKEN": f"hf_{S}",
    "SLURM_JWT": S,
    "KERAS_LICENSE": S,
    "TF_REGISTRY_LOGIN": S,
    "NCCL_OF_OURS": S,
    "HOROVOD_SECRET": S,
    "HVDKIT_OF_MINE": S,
    "PYTHONKEYRING": S,
    "OMP_TOOL_CODE": S,
    "NETRC_LINE": f"machine a login b password {S}",
    "PIN": f"1234{S}",
    "UNIÇODE": f"pässwörd {S}",
    "with.dot": S,
    "BASH_FUNC_f%%": f"() {{  echo {S}; }}",
    "quoted": f'it\'s "{S}" $HOME `id` \\ ;',
    "XLA_FLAGS": f"--xla_dump_to=https://me:{S}@host/",
}
GETS = """
import json
json.dump({name: os.environ.get(name) for name in json.load(open("names"))}, open(f"got.{rank}", "w"))
print("here", flush=True)
time.sleep(1)
"""


# Those that the README lists, and what one of them was called before.
VARIABLES = [*re.findall(r"^\| `(HVDKIT_\w+)`", (REPOSITORY / "README.md").read_text(), re.MULTILINE), "HVDKIT_PROOF"]


def command_lines() -> str:
    lines = []
    for process in psutil.process_iter():
        try:
            lines += process.cmdline()
        except psutil.Error:
            continue
    return "\n".join(lines)


@pytest.mark.dist
def test_secrets_of_many_shapes_reach_the_ranks_and_nobody_else(cluster, launcher):
    (cluster.directory / "names").write_text(json.dumps(list(SHAPES)))
    process = cluster.start(cluster.command("-np", 2, cluster.script(GETS), launcher=launcher), SHAPES)
    assert_secret_reaches_both_ranks_only(cluster, process, SHAPES)


@pytest.mark.dist
def test_secrets_that_a_program_gives_its_ranks_are_seen_by_nobody_else(cluster):
    launcher_of("horovodrun")  # the one that has command lines for them
    (cluster.directory / "names").write_text(json.dumps(["MINE"]))
    text = f"""
    from hvdkit import launch
    secret = sys.stdin.readline()
    sys.exit(launch.run([{cluster.script(GETS)!r}], 2, launcher="horovodrun", environ={{"MINE": secret}}))
    """
    process = cluster.start([sys.executable, cluster.script(text, "starts.py")], stdin=subprocess.PIPE)
    process.stdin.write(S.encode())
    process.stdin.close()
    process.stdin = None  # communicate() need not close it again
    assert_secret_reaches_both_ranks_only(cluster, process, {"MINE": S})


def assert_secret_reaches_both_ranks_only(cluster, process, want: dict[str, str]) -> None:
    looked = 0
    while process.poll() is None:
        assert S not in command_lines()
        looked += 1
    ended = cluster.finish(process)
    assert ended.code == 0, ended.err
    assert looked > 2
    assert ended.out.count("here") == 2
    assert S not in ended.out + ended.err
    for rank in range(2):
        assert json.loads((cluster.directory / f"got.{rank}").read_text()) == want
    assert cluster.tidy()  # the private file is gone


@pytest.mark.dist
def test_a_dry_run_shows_no_value_that_was_forwarded(cluster, launcher):
    # The name alone: a value on hvdkit's own command line is the user's own doing.
    names = [name for name in SHAPES if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
    words = [word for name in names for word in ("-x", name)]
    ended = cluster.run("-np", 2, *words, "--dry-run", cluster.script(""), launcher=launcher, env=SHAPES)
    assert ended.code == 0, ended.err
    assert S not in ended.out + ended.err


@pytest.mark.parametrize("name", SHAPES)
def test_no_shape_may_be_seen(name):
    assert not may_be_seen(name, SHAPES[name])


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH", "SSH_AUTH_SOCK", "HOROVOD_CYCLE_TIME", "HVDKIT_RUN_DIR"),
        *VARIABLES,
    ],
)
def test_what_a_launcher_needs_may_be_seen(name):
    assert may_be_seen(name, "/usr/bin")
