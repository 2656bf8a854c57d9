"""The sub-commands of `gram`, one file each, in the order of `gram --help`."""

from . import (
    card,
    encode,
    evaluate,
    prepare,
    push,
    quickstart,
    recommend,
    reproduce,
    serve,
    space,
    table,
    translate,
    tune,
)

COMMANDS = {
    "prepare": prepare.COMMAND,
    "translate": translate.COMMAND,
    "encode": encode.COMMAND,
    "evaluate": evaluate.COMMAND,
    "tune": tune.COMMAND,
    "recommend": recommend.COMMAND,
    "serve": serve.COMMAND,
    "card": card.COMMAND,
    "push": push.COMMAND,
    "space": space.COMMAND,
    "quickstart": quickstart.COMMAND,
    "reproduce": reproduce.COMMAND,
    "table": table.COMMAND,
}
