"""The sub-commands of `gram`, one file each, in the order of `gram --help`."""

from . import encode, evaluate, prepare, quickstart, recommend, serve, translate

COMMANDS = {
    "prepare": prepare.COMMAND,
    "translate": translate.COMMAND,
    "encode": encode.COMMAND,
    "evaluate": evaluate.COMMAND,
    "recommend": recommend.COMMAND,
    "serve": serve.COMMAND,
    "quickstart": quickstart.COMMAND,
}
