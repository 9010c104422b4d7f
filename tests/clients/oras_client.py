"""Push, tag, list and pull an artifact with the Python client of the ORAS project.

usage: oras_client.py HOST:PORT
"""

import pathlib
import sys

import oras.client


def main(registry: str) -> None:
    client = oras.client.OrasClient(hostname=registry, insecure=True)
    target = f"{registry}/oras/artifact:v1"
    pathlib.Path("note.txt").write_text("kept as an artifact\n")
    answer = client.push(
        target=target,
        files=["note.txt:text/plain"],
        manifest_annotations={"org.example.note": "yes"},
    )
    assert answer.status_code == 201, answer
    assert "v1" in client.get_tags(f"{registry}/oras/artifact"), "the tag is not listed"
    manifest = client.get_manifest(target)
    assert manifest["annotations"]["org.example.note"] == "yes", manifest
    pulled = client.pull(target=target, outdir="pulled")
    assert pathlib.Path(pulled[0]).read_text() == "kept as an artifact\n", pulled
    print("all is well")


main(sys.argv[1])
