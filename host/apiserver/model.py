#!/usr/bin/env python3
"""Writes src/model/types.txt: every type of the Kubernetes API, field by field.

JSON names and types come from the sources of the crate k8s-openapi, protobuf field numbers from
those of k8s-pb, and how strategic merge patch treats a list from OpenAPI documents of a Kubernetes
API server (`kubectl get --raw /openapi/v3/api/v1` and so on). Run it when either crate moves:

    model.py K8S_OPENAPI/src/v1_36 K8S_PB/src OPENAPI.json... > src/model/types.txt
"""
import json
import pathlib
import re
import sys


def short(path):
    """crate::api::core::v1::Pod and io.k8s.api.core.v1.Pod -> core.v1.Pod"""
    parts = re.split(r"::|\.", path)
    for drop in ("crate", "io", "k8s", "api", "apimachinery", "apiextensions_apiserver", "apiextensions-apiserver",
                 "kube_aggregator", "kube-aggregator", "pkg", "apis", "metrics"):
        parts = [p for i, p in enumerate(parts) if p != drop or i == len(parts) - 1]
    return ".".join(parts)


def norm(name):
    return re.sub(r"[^a-z0-9]", "", name.lower())


def json_type(text):
    text = text.strip()
    for wrapper, prefix in (("Option", ""), ("std::boxed::Box", ""), ("std::vec::Vec", "[]")):
        if text.startswith(wrapper + "<"):
            return prefix + json_type(text[len(wrapper) + 1:-1])
    if text.startswith("std::collections::BTreeMap<"):
        return "{}" + json_type(text[text.index(",") + 1:-1])
    simple = {"std::string::String": "string", "i32": "int32", "i64": "int64", "f64": "float64",
              "bool": "bool", "crate::ByteString": "bytes", "crate::serde_json::Value": "any"}
    return simple.get(text) or short(text)


def read_openapi(root):
    types = {}
    for file in sorted(pathlib.Path(root).rglob("*.rs")):
        text = file.read_text()
        named = re.search(r"^// Generated from definition (\S+)", text, re.M)
        if not named:
            continue
        name = short(named.group(1))
        struct = re.search(r"^pub struct \w+ \{\n(.*?)^\}", text, re.M | re.S)
        if not struct:
            continue
        fields = dict((norm(f), json_type(t)) for f, t in
                      re.findall(r"^    pub (?:r#)?(\w+): (.*),$", struct.group(1), re.M))
        keys = re.findall(r'^ +"([^"]+)" => Field::Key_(\w+),$', text, re.M)
        types[name] = [(j, fields[norm(k)]) for j, k in keys if norm(k) in fields]
    return types


def read_pb(root):
    messages = {}
    for file in sorted(pathlib.Path(root).rglob("*.rs")):
        package = ".".join(file.relative_to(root).with_suffix("").parts).replace(".mod", "")
        for name, body in re.findall(r"^pub struct (\w+) \{\n(.*?)^\}", file.read_text(), re.M | re.S):
            fields = []
            body = " ".join(l.strip() for l in body.splitlines() if not l.strip().startswith("///"))
            for attr, field, kind in re.findall(
                    r"#\[prost\(([^\]]*)\)\] (?:#\[[^\]]*\] )*pub (?:r#)?(\w+): (.*?), ?(?=#\[|$)", body):
                tag = int(re.search(r'tag = "(\d+)"', attr).group(1))
                message = None
                if "message" in attr:
                    message = re.findall(r"[\w:#]+", kind)[-1]
                fields.append((tag, field, message))
            messages[norm(short(package + "." + name))] = fields
    return messages


def strategies(files):
    found = {}
    for file in files:
        for name, schema in json.load(open(file)).get("components", {}).get("schemas", {}).items():
            for prop, value in schema.get("properties", {}).items():
                if "x-kubernetes-patch-strategy" in value:
                    key = value.get("x-kubernetes-patch-merge-key", "")
                    found[short(name), prop] = value["x-kubernetes-patch-strategy"] + (":" + key if key else "")
    return found


def main():
    types, messages, patch = read_openapi(sys.argv[1]), read_pb(sys.argv[2]), strategies(sys.argv[3:])
    out, extra = {}, {}

    def number(name, fields, pb, inlined):
        lines, left = [], {norm(j): (j, t) for j, t in fields}
        for tag, field, message in pb:
            if norm(field) in left:
                json_name, kind = left.pop(norm(field))
                lines.append((tag, json_name, kind))
            elif message:
                # Embedded in Go: nested on the wire, flat in JSON.
                path = name.rsplit(".", 1)[0] + "." + message.split("::")[-1]
                inner = messages.get(norm(path))
                if inner is None:
                    continue
                inner_name, inner_lines, left = number(path, list(left.values()), inner, True)
                if inner_lines:
                    extra.setdefault(path, sorted(inner_lines))
                    lines.append((tag, ".", path))
        left = {k: v for k, v in left.items()}
        return name, lines, left

    def inner_fields(name):
        for _, json_name, kind in extra.get(name, []):
            if json_name == ".":
                yield from inner_fields(kind)
            else:
                yield json_name, kind

    for name, fields in types.items():
        _, lines, left = number(name, fields, messages.get(norm(name), []), False)
        # Fields inside an embedded message are listed for JSON too; number 0: not a wire field here.
        lines = sorted(lines) + [(0, j, t) for j, t in left.values()]
        inline = [t for _, j, t in lines if j == "."]
        for one in inline:
            lines += [(0, j, t) for j, t in inner_fields(one)]
        out[name] = lines
    for name, lines in extra.items():
        out.setdefault(name, lines)
    print("# Written by model.py from the sources of k8s-openapi and k8s-pb. Do not edit.")
    print("# <type>, then one line per field: <protobuf number or 0> <JSON name, or . for an embedded message>")
    print("# <type, [] for a list, {} for a map> [<patch strategy>]")
    for name in sorted(out):
        print(name)
        for tag, field, kind in out[name]:
            strategy = patch.get((name, field), "")
            print(f" {tag} {field} {kind} {strategy}".rstrip())


main()
