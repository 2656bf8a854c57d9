"""A client of `gram serve runs/quickstart`, with the standard library alone: `python examples/query_server.py`."""

import argparse
import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--history", nargs="+", default=["50", "172"], metavar="ID", help="item ids, oldest first")
    parser.add_argument("--top-k", type=int, default=5)
    arguments = parser.parse_args()

    body = json.dumps({"histories": [arguments.history], "top_k": arguments.top_k}).encode()
    request = Request(f"{arguments.url}/recommend", data=body, headers={"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=30) as response:
            answer = json.load(response)
    except HTTPError as error:  # an unknown item, say: the answer tells what is wrong
        raise SystemExit(f"{error.code}: {error.read().decode()}") from None
    print(json.dumps(answer, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
