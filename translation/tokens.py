"""What the tokens of lexical IDs look like."""

import re

CODE_TOKEN = re.compile(r"<[a-z]_\d+>")
SPACE = "▁"  # stands for the space before a word in sentencepiece's vocabularies
DIGITS = "0123456789"
