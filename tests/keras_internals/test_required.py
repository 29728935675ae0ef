"""What hvdkit uses of Keras and TensorFlow and nobody promises: it is there, listed, and used in one room."""

import ast
from pathlib import Path

import keras
import tensorflow as tf

import hvdkit
from hvdkit.keras_internals.attributes import is_own
from hvdkit.keras_internals.missing import missing
from hvdkit.keras_internals.required import REQUIRED, private_names
from hvdkit.keras_internals.variables import unique_id
from tests.keras_internals import private_names as places

PACKAGE = Path(hvdkit.__file__).parent
ROOM = "keras_internals/"
# Horovod's private functions, which its engine alone touches.
_OF_HOROVOD = "comm/horovod.py"


def test_the_installed_versions_have_it_all():
    assert missing() == []


def test_what_is_gone_is_named_with_what_needs_it():
    class Optimizer(keras.optimizers.Optimizer):
        def _clip_gradients(self, grads, variables):
            return grads

        def _use_weight_decay(self, variable, more=None):
            return False

        _get_variable_index = property()

    class Model(keras.Model):
        _maybe_symbolic_build = 1

    lines = missing(replaced={"keras.optimizers.Optimizer": Optimizer, "keras.Model": Model, "an epoch": object()})
    needs = "hvd.DistributedOptimizer, which reduces before Keras clips needs it"
    assert lines[0] == (
        f"keras.optimizers.Optimizer._clip_gradients(grads): it takes (grads, variables) now, and {needs}"
    )
    assert lines[1].startswith(
        "keras.Model._maybe_symbolic_build(iterator, data_batch): it cannot be called, being of the type int, and model"
    )
    assert lines[2].startswith(
        "keras.optimizers.Optimizer._get_variable_index(variable): it cannot be called, being of the type property"
    )
    assert lines[3:] == [
        "an epoch._num_batches: it is not there, and hvd.data.shard needs it",
        "an epoch._distributed_dataset: it is not there, and model.fit on several ranks needs it",
    ]


def test_a_module_that_is_gone_is_named():
    gone = [r for r in REQUIRED if r.name == "DataAdapter"]
    (line,) = missing([type(gone[0])("keras.src.no_such_module", "DataAdapter", "hvd.data.shard")])
    assert line.startswith("keras.src.no_such_module.DataAdapter: there is no keras.src.no_such_module (")


def test_a_replicas_part_of_a_variable_is_the_variable():
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        whole = tf.Variable(1.0)
    (part,) = whole.values
    part._unique_id = "as of another replica"
    assert unique_id(part) == unique_id(whole) != unique_id(tf.Variable(1.0))


def test_the_table_lists_what_the_room_touches():
    listed, touched = {required.name for required in REQUIRED}, set()
    for path in (PACKAGE / ROOM).glob("*.py"):
        tree = ast.parse(path.read_text())
        found = [
            *places.touches(tree, places.own_names(tree), private_names()),
            *places.overrides(tree, private_names()),
        ]
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        touched |= {name for _, name in found if places.is_private(name) and not is_own(name)}
        touched |= texts & private_names() if path.name != "required.py" else set()
    assert touched <= listed
    assert private_names() <= touched, "the table lists what nobody touches any more"


def test_nothing_else_touches_what_is_private():
    found = places.of_package(PACKAGE, private_names(), (ROOM, _OF_HOROVOD))
    assert found == {}, f"use or add a function of hvdkit/{ROOM}"


def test_nothing_else_unwraps_optimizers():
    copies = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if '"inner_optimizer"' in path.read_text() and not path.is_relative_to(PACKAGE / ROOM)
    ]
    assert copies == []
