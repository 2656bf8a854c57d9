"""Publish a model on the Hub: `python examples/publish.py --repo-id me/films`, after `hf auth login`."""

import argparse

from gram.hub.push import push


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart")
    parser.add_argument("--repo-id", default="gram-quickstart", help="[NAMESPACE/]NAME")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="say what would be uploaded; change nothing")
    arguments = parser.parse_args()

    done = push(arguments.model, arguments.repo_id, private=arguments.private, dry_run=arguments.dry_run)
    for file in done.changes:
        print(f"{file.state:<9}  {file.path}")
    print(done.commit_url or "no commit was needed" if not arguments.dry_run else "nothing was changed")
    print(f"load it anywhere with AutoModel.from_pretrained({done.repo_id!r}, trust_remote_code=True)")


if __name__ == "__main__":
    main()
