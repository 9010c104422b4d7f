//! What good inputs look like, with every construct that its parser knows.

pub(super) const OBJECTS: &[&str] = &[
    r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x":"y"}},"data":{"k":"v","k":"w"}}"#,
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"cpu":"100m"}},"ports":[{"containerPort":80}]}]}}"#,
    r#"{"metadata":{"labels":{"a":null,"b":"\ud83d\ude00"}},"spec":{"replicas":-1.5e3,"x":[1,true,null,{}]}}"#,
    "[]",
    "null",
    "1",
];

pub(super) const YAML: &[&str] = &[
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  name: b\ndata: {k: |\n  text\n}\n",
    "a: &x [1, 2.5, 0x1f, ~, yes, '2001-01-01']\nb: *x\n<<: {c: d}\n? [k]\n: v\n---\nc: 1\n",
    "- !!binary aGk=\n- >-\n  folded\n  text\n- \"\\u00e9\"\n",
];

pub(super) const JSON_PATCHES: &[&str] = &[
    r#"[{"op":"add","path":"/metadata/labels/x~1y","value":"z"},{"op":"remove","path":"/spec/containers/0"}]"#,
    r#"[{"op":"copy","from":"/spec","path":"/spec/copy"},{"op":"move","from":"/metadata/labels","path":"/data"}]"#,
    r#"[{"op":"test","path":"/spec/nodeName","value":"n"},{"op":"replace","path":"/spec/containers/-1/name","value":{}},{"op":"add","path":"/spec/volumes/-","value":1}]"#,
    r#"[{"op":"add","path":"","value":[1]}]"#,
];

pub(super) const STRATEGIC: &[&str] = &[
    r#"{"spec":{"containers":[{"name":"c","$patch":"delete"},{"name":"e"}],"$setElementOrder/containers":[{"name":"e"}]}}"#,
    r#"{"metadata":{"finalizers":["a"],"$deleteFromPrimitiveList/finalizers":["x/y"]},"spec":{"$retainKeys":["nodeName"],"nodeName":"m"}}"#,
    r#"{"spec":{"ports":[{"port":80,"protocol":"TCP"},{"$patch":"replace"}],"template":{"spec":{"volumes":[{"name":"v","$retainKeys":["name"]}]}}}}"#,
    r#"{"$patch":"replace","spec":null}"#,
];

pub(super) const SELECTORS: &[&str] = &[
    "a=b,tier in (web, db),!x,n>3,n<9,c!=d,e==f,g notin (h),i",
    r"metadata.name=a,status.phase!=Running,metadata.name=x\,y\=z\\",
    "example.com/name=v,example.com/other",
    r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"tier","operator":"NotIn","values":["x"]},{"key":"n","operator":"Exists"}]}"#,
];

pub(super) const CEL: &[&str] = &[
    "self.list.all(x, x > 0) && self.list.exists_one(y, y == 1) || has(self.nope)",
    "s.matches('^[a-z]+(x|y)*$') ? s.replace('o', '0', 2) : 'abc'.substring(1, 2).upperAscii()",
    "[1, 2u, 3.0].map(x, x < n, {x: string(n)}).size() + self.list.sum() - 0x1f % 7",
    "duration('1h30m') + timestamp('2026-01-01T00:00:00Z') > timestamp(0)",
    "quantity('1.5Gi').add(quantity('1Mi')).isGreaterThan(quantity('1')) || isIP('::1') && cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))",
    "url('https://a:80/b?c=d').getQuery()['c'][0] == b'd\\x00\\u00e9' && semver('1.2.3-a+b').major() == 1",
    "self.?a.orValue(1) + optional.of(2).value() + [?optional.none(), 1].size()",
    "s.format(['%s %d %.3f %x %b %e', 1]) + r'raw\\n' + '''long\n''' + 'x'.join(['y'])",
    "self.list.sort().reverse().slice(0, 1).flatten() == sets.intersects([1], [2]) || -n == !true",
];

pub(super) const JSON_PATHS: &[&str] = &[
    r#".status.conditions[?(@.type=="Ready")].status"#,
    ".spec.containers[*].ports[-1:].containerPort",
    "..name",
    "{.metadata['labels']['a\\.b']}",
    ".a[0:2:1][?(@.x>=1.5)]..b",
];

pub(super) const QUANTITIES: &[&str] = &[
    "1",
    "-1.5Gi",
    "100m",
    "1e3",
    "1E",
    "12.345678901234567890k",
    "0.000000001n",
    "+9223372036854775807Ei",
    "1e-30",
    ".5",
    "5.",
];

pub(super) const TOKENS: &[&str] = &[
    r#"{"v":"meta.k8s.io/v1","rv":12,"start":"default/a\u0000"}"#,
    r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"/../"}"#,
    "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTIsInN0YXJ0IjoiYVx1MDAwMCJ9",
];

pub(super) const SCHEMAS: &[&str] = &[
    r#"{"type":"object","properties":{"spec":{"type":"object","required":["a"],"properties":{"a":{"type":"string","pattern":"^a+$","maxLength":5,"default":"x"},"l":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],"items":{"type":"object","required":["name"],"properties":{"name":{"type":"string"}}}}},"x-kubernetes-validations":[{"rule":"self.a.size() > 1","messageExpression":"'no ' + self.a","fieldPath":".a"}]}}}"#,
    r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"additionalProperties":{"x-kubernetes-int-or-string":true},"oneOf":[{"required":["a"]},{"not":{"minProperties":2}}]}"#,
    r#"{"properties":{"metadata":{"type":"object","properties":{"name":{"maxLength":3}}},"e":{"x-kubernetes-embedded-resource":true,"type":"object","nullable":true},"n":{"type":"integer","format":"int32","multipleOf":3,"minimum":1,"exclusiveMinimum":true,"enum":[1,3]}},"type":"object"}"#,
];

pub(super) const MANAGED: &[&str] = &[
    r#"{"f:metadata":{"f:labels":{".":{},"f:a":{}},"f:finalizers":{"v:\"x/y\"":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}},"f:nodeName":{}}}"#,
    r#"{"f:spec":{"f:tolerations":{"i:0":{}},"f:containers":{"i:-1":{},"k:{}":{},"k:{\"name\":1.5}":{},"v:null":{},"v:[1]":{}}}}"#,
    r#"[{"manager":"a","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:nodeName":{}}}},{"manager":"a","operation":"Apply","apiVersion":"v2","subresource":"status","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{}}}]"#,
    "null",
];

pub(super) const QUERIES: &[&str] = &[
    "/api/v1/namespaces/default/pods/a/log?follow=true&limit=5&continue=x&resourceVersion=12&resourceVersionMatch=Exact",
    "/apis/apps/v1/watch/deployments?watch=1&timeoutSeconds=5&allowWatchBookmarks=true&sendInitialEvents=true&fieldValidation=Strict",
    "/openapi/v3/apis/x?dryRun=All&fieldManager=m&force=true&propagationPolicy=Orphan&gracePeriodSeconds=-1&labelSelector=%61",
];
