"""The plan: who launches, with which words; all from plain data."""

from __future__ import annotations

import pytest

from hvdkit.engines.horovod import HorovodBuild
from hvdkit.errors import HorovodMissingError, LaunchError, UsageError
from hvdkit.launch.hosts import Host, parse_hosts, read_hostfile
from hvdkit.launch.launcher import Tool
from hvdkit.launch.plan import Request, SystemInfo, make_plan

BOTH = {"horovod": HorovodBuild(gloo=True, mpi=True)}
GLOO = {"horovod": HorovodBuild(gloo=True, mpi=False)}
MPI = {"horovod": HorovodBuild(gloo=False, mpi=True)}
MISFIT = {"horovod": "This Horovod was built for TensorFlow 2.4."}
MPI4PY = {"mpi": "4.1.2"}
OPEN_MPI = Tool("/env/bin/mpirun", "openmpi", "5.0.11")
ONLY_MPIRUN = {"mpirun": OPEN_MPI}
TOOLS = {"horovodrun": Tool("/env/bin/horovodrun"), "mpirun": OPEN_MPI}
WORKER = ("/env/bin/python", "-m", "hvdkit.launch.worker", "train.py", "--lr", "0.1")


def found(**options) -> SystemInfo:
    return SystemInfo(**{"python": "/env/bin/python", "tools": TOOLS, "engines": BOTH, "cores": 4, **options})


def request(**options) -> Request:
    return Request(**{"program": ("train.py", "--lr", "0.1"), "np": 2, **options})


@pytest.mark.parametrize(
    ("there", "asked", "launcher", "engine", "why"),
    [
        ({}, None, "horovodrun", "horovod", "needs no MPI"),
        ({"engines": GLOO}, None, "horovodrun", "horovod", "needs no MPI"),
        ({"engines": {**GLOO, **MPI4PY}}, None, "horovodrun", "horovod", "needs no MPI"),
        ({"engines": MPI}, None, "mpirun", "horovod", "built with MPI"),
        ({"tools": ONLY_MPIRUN}, None, "mpirun", "horovod", "built with MPI"),
        ({"allocated_nodes": 4}, None, "mpirun", "horovod", "allocation of 4 hosts"),
        ({"tools": ONLY_MPIRUN, "engines": MPI4PY}, None, "mpirun", "mpi", "needs no Horovod"),
        ({"tools": ONLY_MPIRUN, "engines": {**MPI, **MPI4PY}}, None, "mpirun", "auto", "needs no Horovod"),
        ({"engines": {**GLOO, **MPI4PY}}, "mpi", "mpirun", "mpi", "needs no Horovod"),
        ({"engines": {**BOTH, **MPI4PY}}, "horovod", "horovodrun", "horovod", "needs no MPI"),
        ({"engines": {**BOTH, **MPI4PY}, "allocated_nodes": 4}, "mpi", "mpirun", "mpi", "allocation of 4 hosts"),
        ({"engines": {**BOTH, **MPI4PY}, "environ": {"HVDKIT_ENGINE": "mpi"}}, None, "mpirun", "mpi", "no Horovod"),
        ({"engines": {**BOTH, **MPI4PY}, "environ": {"HVDKIT_ENGINE": "mpi"}}, "auto", "horovodrun", "horovod", "Gloo"),
    ],
)
def test_auto(there, asked, launcher, engine, why):
    plan = make_plan(request(engine=asked), found(**there))
    assert (plan.launcher, plan.engine) == (launcher, engine)
    assert plan.env.get("HVDKIT_ENGINE") == asked, "what was asked for goes before what the ranks' environment says"
    assert why in plan.why
    assert plan.argv[-len(WORKER) :] == WORKER


@pytest.mark.parametrize(("launcher", "tagged", "passes_on"), [("horovodrun", True, False), ("mpirun", False, True)])
def test_what_the_supervisor_has_to_know_of_a_launcher(launcher, tagged, passes_on):
    plan = make_plan(request(launcher=launcher), found())
    assert (plan.tagged, plan.passes_on_sigusr1) == (tagged, passes_on)


def test_horovodrun_words():
    plan = make_plan(request(hosts=parse_hosts("a:2,b:2"), np=None, interfaces=("eth0", "eth1")), found())
    head = ("/env/bin/horovodrun", "--gloo", "-np", "4", "-H", "a:2,b:2", "--network-interfaces", "eth0,eth1")
    assert plan.argv == (*head, *WORKER)
    assert plan.np == 4
    assert plan.env == {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


def test_horovodrun_keeps_secrets_off_the_command_line():
    environ = {"DB_PASS": "s3cret", "HOME": "/root", "BASH_FUNC_f%%": "() { :; }", "SSH_AUTH_SOCK": "/s"}
    plan = make_plan(request(forward=("MY_TOKEN=hush",)), found(environ=environ))
    assert plan.private == ("BASH_FUNC_f%%", "DB_PASS"), "a value after -x stands on the user's own command line"
    assert "hush" not in " ".join(plan.argv)
    assert "hush" not in str(plan)


def test_what_the_ranks_are_given_besides_stands_on_no_command_line():
    """Unlike a value after -x: of ``hvdkit.launch.run(environ=...)``."""
    given = {"DB_PASS": "s3cret", "TWICE": "hush", "HVDKIT_RESTART": "0", "OMP_NUM_THREADS": 2}
    plan = make_plan(request(environ=given, forward=("TWICE=open", "MINE=x")), found(environ={"AWS_TOKEN": "y"}))
    assert plan.private == ("DB_PASS", "TWICE", "AWS_TOKEN"), "those first that every rank needs"
    assert {name: plan.env[name] for name in (*given, "MINE")} == {**given, "OMP_NUM_THREADS": "2", "MINE": "x"}
    plan = make_plan(request(environ={"DB_PASS": "s3cret"}, launcher="mpirun"), found())
    assert "-x DB_PASS -x" in " ".join(plan.argv)
    assert make_plan(request(environ={"HVDKIT_ENGINE": "mpi"}), found(engines={**BOTH, **MPI4PY})).launcher == "mpirun"


def test_horovodrun_keeps_long_variables_off_the_command_line():
    plan = make_plan(request(), found(environ={"PATH": "x" * 90_000, "LANG": "x" * 100_000, "HOME": "/root"}))
    assert plan.private == ("LANG",)


OPEN_MPI_TABLE = [
    ({}, {}, "-np 2 --bind-to none --map-by slot"),
    ({}, {"root": True}, "--allow-run-as-root -np 2 --bind-to none --map-by slot"),
    ({"np": 5}, {}, "-np 5 --oversubscribe --bind-to none --map-by slot"),
    ({"np": 5}, {"allocated_nodes": 2}, "-np 5 --bind-to none --map-by slot"),
    ({"hosts": (Host("a", 8),), "np": 8}, {}, "-np 8 -H a:8 --bind-to none --map-by slot"),
    ({"interfaces": ("eth0",)}, {}, "--map-by slot --mca pml ob1 --mca btl_tcp_if_include eth0 -x"),
]


@pytest.mark.parametrize(("asked", "there", "words"), OPEN_MPI_TABLE)
def test_open_mpi_words(asked, there, words):
    plan = make_plan(request(launcher="mpirun", **asked), found(**there))
    assert f" {words} " in f" {' '.join(plan.argv)} "
    assert plan.argv[-len(WORKER) :] == WORKER


def test_open_mpi_4_also_needs_its_own_channel_on_the_interface():
    tools = {"mpirun": Tool("/env/bin/mpirun", "openmpi", "4.1")}
    plan = make_plan(request(interfaces=("eth0",)), found(tools=tools))
    assert "--mca oob_tcp_if_include eth0" in " ".join(plan.argv)
    assert plan.env["NCCL_SOCKET_IFNAME"] == "eth0"


def test_mpirun_forwards_by_name_what_the_ranks_need():
    names = ("PATH", "PYTHONPATH", "HOROVOD_LOG_LEVEL", "KERAS_BACKEND", "NCCL_DEBUG", "HVDKIT_LOG_LEVEL", "TF_X")
    others = ("HOME", "CUDA_VISIBLE_DEVICES", "OMPI_X", "MYPATH")
    environ = dict.fromkeys((*names, *others), "value")
    plan = make_plan(request(launcher="mpirun", forward=("MINE=a b", "HOME")), found(environ=environ))
    given = {plan.argv[i + 1] for i, word in enumerate(plan.argv) if word == "-x"}
    added = {"HVDKIT_RUN_ID", "HVDKIT_RUN_DIR", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER"}
    assert given == {*names, *added, "MINE", "HOME"}
    assert plan.env["MINE"] == "a b"


@pytest.mark.parametrize("flavour", ["mpich", "intelmpi", "mvapich"])
def test_hydra_words(flavour):
    tools = {"mpirun": Tool("/opt/mpirun", flavour, "4.2")}
    plan = make_plan(request(hosts=parse_hosts("a,b"), interfaces=("eth0",)), found(tools=tools, root=True))
    text = " ".join(plan.argv)
    assert text.startswith("/opt/mpirun -np 2 -hosts a:1,b:1 -iface eth0 -genvlist HVDKIT_RUN_DIR,HVDKIT_RUN_ID,")
    assert "-x" not in plan.argv
    assert "--allow-run-as-root" not in plan.argv


INSTALL_HOROVOD, INSTALL_MPI = "hvdkit install-horovod", "pip install 'hvdkit[mpi]'"


@pytest.mark.parametrize(
    ("asked", "there", "error", "says", "fix"),
    [
        ({"np": 5, "hosts": parse_hosts("a:2,b:2")}, {}, UsageError, "more than the 4 slots", "-np 4"),
        ({"np": 0}, {}, UsageError, "at least 1", "-np 2"),
        ({"np": None}, {}, UsageError, "How many ranks", "-np 2"),
        ({"launcher": "mpirum"}, {}, UsageError, "mpirum", "did you mean 'mpirun'?"),
        ({"forward": ("NOPE",)}, {}, UsageError, "NOPE: the variable is not set", "export NOPE"),
        ({"forward": ("A-B=1",)}, {}, UsageError, "'A-B' is not the name", "-x NAME"),
        ({"environ": {"A-B": "1"}}, {}, UsageError, "environ: 'A-B' is not the name", "letters"),
        ({}, {"unknown_hosts": ("nohost",)}, UsageError, "Unknown host: nohost", "getent"),
        ({}, {"engines": {}}, LaunchError, "No launcher.*Horovod is not.*mpi4py is not", INSTALL_HOROVOD),
        ({}, {"engines": {}}, LaunchError, "No launcher", INSTALL_MPI),
        ({}, {"tools": {}}, LaunchError, "No launcher", INSTALL_HOROVOD),
        ({}, {"tools": {}}, LaunchError, "No launcher", INSTALL_MPI),
        ({"launcher": "horovodrun"}, {"engines": {}}, HorovodMissingError, "Horovod is not inst", INSTALL_HOROVOD),
        ({}, {"engines": MISFIT}, LaunchError, "for TensorFlow 2.4", INSTALL_HOROVOD),
        ({"engine": "horovod"}, {"tools": ONLY_MPIRUN, "engines": MPI4PY}, LaunchError, "Horovod", INSTALL_HOROVOD),
        ({"launcher": "mpirun"}, {"engines": GLOO}, LaunchError, "without MPI", "install-horovod --with mpi"),
        ({"launcher": "mpirun"}, {"engines": GLOO}, LaunchError, "mpi4py is not installed", INSTALL_MPI),
        ({"launcher": "horovodrun"}, {"engines": MPI}, LaunchError, "without Gloo", "--with gloo"),
        ({"launcher": "mpirun"}, {"tools": {}}, LaunchError, "mpirun is not installed", INSTALL_MPI),
        ({"launcher": "srun"}, {}, LaunchError, "does not start ranks with srun", "srun --mpi=pmix"),
        (
            {"launcher": "horovodrun", "engine": "mpi"},
            {"engines": MPI4PY},
            LaunchError,
            "that an MPI started",
            "launch with mpirun",
        ),
        ({"engine": "mpi"}, {"engines": GLOO}, LaunchError, "mpi4py is not installed", INSTALL_MPI),
        ({"engine": "mpy"}, {}, UsageError, "Unknown engine 'mpy'", "did you mean 'mpi'?"),
        ({"forward": ("HVDKIT_ENGINE=mpy",)}, {}, UsageError, "Unknown engine 'mpy'", "did you mean 'mpi'?"),
        ({}, {"engines": GLOO, "allocated_nodes": 2}, LaunchError, "allocation of 2 hosts", "-H host1"),
    ],
)
def test_refusals(asked, there, error, says, fix):
    with pytest.raises(error, match=says) as caught:
        make_plan(request(**asked), found(**there))
    assert fix in caught.value.fix


def test_a_hostfile_in_each_dialect(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\na slots=2\nb:3   # fast\n\nc\n")
    assert read_hostfile(str(path)) == (Host("a", 2), Host("b", 3), Host("c", 1))


@pytest.mark.parametrize("line", ["a slots=x", "a:0", "a b", "-oProxyCommand=x", "a slots=", ":2", "a;b"])
def test_a_malformed_hostfile_names_the_line(tmp_path, line):
    path = tmp_path / "hosts"
    path.write_text(f"ok:1\n{line}\n")
    with pytest.raises(UsageError, match=r"hosts, line 2"):
        read_hostfile(str(path))


def test_a_hostfile_without_hosts(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# nothing\n")
    with pytest.raises(UsageError, match="names no host"):
        read_hostfile(str(path))


DRY_RUN = """\
launcher:  mpirun: it was asked for
engine:    mpi
ranks:     2 on a:1, b:1
command:   /env/bin/mpirun -np 2 -H a:1,b:1 --bind-to none --map-by slot -x HVDKIT_ENGINE -x HVDKIT_RUN_DIR \
-x HVDKIT_RUN_ID -x MY_TOKEN -x PYTHONFAULTHANDLER -x PYTHONUNBUFFERED /env/bin/python -m hvdkit.launch.worker \
train.py 'a b'
add:       HVDKIT_ENGINE=mpi
add:       MY_TOKEN='(hidden)'
add:       PYTHONFAULTHANDLER=1
add:       PYTHONUNBUFFERED=1"""


def test_dry_run_text():
    asked = Request(("train.py", "a b"), None, "mpirun", "mpi", parse_hosts("a,b"), (), ("MY_TOKEN=hush",))
    assert str(make_plan(asked, found(engines={**BOTH, **MPI4PY}))) == DRY_RUN
