//! Expressions and what they answer, or what is wrong with them.

use serde_json::{Value as Json, json};

use super::*;

fn env() -> Env {
    Env::new()
        .variable("self", Type::Dyn)
        .variable("n", Type::Int)
        .variable("s", Type::String)
        .variable("l", Type::list(Type::Int))
        .variable("m", Type::map(Type::String, Type::Int))
        .variable(
            "o",
            Type::object("object", vec![("a", Type::Int), ("when", Type::Timestamp)]),
        )
}

fn data() -> Json {
    json!({
        "self": {"a": 1, "list": [3, 1, 2], "text": "héllo", "f": 1.5, "null": null,
                 "nested": {"k": {"v": true}}, "port": "80"},
        "n": 7, "s": "word", "l": [1, 2, 3], "m": {"x": 1, "y": 2},
        "o": {"a": 4, "when": "2026-01-02T03:04:05.678Z"},
    })
}

/// The value as text, or the error.
fn run(text: &str) -> String {
    let env = env();
    let program = match Program::compile(text, &env) {
        Ok(program) => program,
        Err(error) => return error.to_string(),
    };
    let data = data();
    let mut bindings = Bindings::new();
    for (name, type_) in &env.variables {
        bindings = bindings.set(name, typed(&data[name], type_));
    }
    match program.eval(&bindings, &mut Budget::new(PER_OBJECT)) {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error: {error}"),
    }
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(run(text), expected, "{text}");
}

#[track_caller]
fn holds(text: &str) {
    check(text, "true");
}

#[test]
fn operators_follow_the_specification() {
    for text in [
        "1 + 2 * 3 == 7",
        "7 / 2 == 3 && -7 / 2 == -3 && -7 % 3 == -1",
        "1.5 + 1.5 == 3.0",
        "dyn(1) == 1.0 && dyn(1u) == 1 && 2 > 1.5 && 1u < 2",
        "'a' + 'b' == \"ab\"",
        "b'a' + b'b' == b'ab'",
        "[1] + [2] == [1, 2]",
        "'b' in ['a', 'b'] && !(3 in l) == false",
        "'x' in m && !('z' in m)",
        "{'a': 1}['a'] == 1 && {'a': {'b': 2}}.a.b == 2",
        "l[0] == 1 && l[-1 + 3] == 3",
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
        "!(false && 1 / 0 == 1)",
        "n > 5 ? true : 1 / 0 == 1",
        "size('héllo') == 5 && 'abc'.size() == 3 && size(l) == 3 && m.size() == 2",
        "type(1) == int && type('a') == string && type(l) == list && type(null) == null_type",
        "dyn(1) == 1 && string(1.5) == '1.5' && int('12') == 12 && double('1.5') == 1.5",
        "uint(3) == 3u && bool('true') && bytes('a') == b'a' && string(b'a') == 'a'",
        "null == null && self.`null` == null && dyn(null) != 1",
        "'a' < 'b' && b'a' < b'b' && false < true",
    ] {
        holds(text);
    }
}

#[test]
fn errors_are_told_in_the_words_of_the_reference() {
    check("self.nope", "error: no such key: nope");
    check("self.a.b", "error: no such key: b");
    check("m['z']", "error: no such key: z");
    check("l[3]", "error: index out of bounds: 3");
    check("1 / 0", "error: division by zero");
    check("1 % 0", "error: modulus by zero");
    check("9223372036854775807 + n", "error: integer overflow");
    check("0u - 1u", "error: unsigned integer overflow");
    check(
        "int('x')",
        "error: type conversion error from 'string' to 'int'",
    );
    check(
        "self.a + self.text",
        "error: no such overload: _+_(int, string)",
    );
    check("self.a && true", "error: no such overload: _&&_(int, bool)");
    check(
        "optional.none().value()",
        "error: optional.none() dereference",
    );
    check(
        "'abc'.substring(2, 1)",
        "error: invalid substring range. start: 2, end: 1",
    );
    check("dyn([]).max()", "error: max called on empty list");
}

#[test]
fn faults_of_expressions_are_told_with_their_place() {
    check(
        "nope > 1",
        "ERROR: <input>:1:1: undeclared reference to 'nope' (in container '')\n | nope > 1\n | ^",
    );
    check(
        "o.nope > 1",
        "ERROR: <input>:1:2: undefined field 'nope'\n | o.nope > 1\n | .^",
    );
    check(
        "n + 'a' == s",
        "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | \
         n + 'a' == s\n | ..^",
    );
    check(
        "s.startsWith(1)",
        "ERROR: <input>:1:13: found no matching overload for 'startsWith' applied to \
         'string.(int)'\n | s.startsWith(1)\n | ............^",
    );
    check(
        "n.x",
        "ERROR: <input>:1:2: type 'int' does not support field selection\n | n.x\n | .^",
    );
    check(
        "[1, 'a']",
        "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
    );
    check(
        "n.all(x, x > 1)",
        "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be \
         list, map, or dynamic)\n | n.all(x, x > 1)\n | ^",
    );
    check(
        "s.matches('(')",
        "ERROR: <input>:1:11: invalid matches argument\n | s.matches('(')\n | ..........^",
    );
    check(
        "duration('soon') > duration('1s')",
        "ERROR: <input>:1:10: invalid duration argument\n | duration('soon') > duration('1s')\n | \
         .........^",
    );
    check(
        "n +\n  nope",
        "ERROR: <input>:2:3: undeclared reference to 'nope' (in container '')\n |   nope\n | ..^",
    );
    check(
        "1 +",
        "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', \
         '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
         IDENTIFIER}\n | 1 +\n | ...^",
    );
    check(
        "héllo",
        "ERROR: <input>:1:2: Syntax error: token recognition error at: 'é'\n | héllo\n | .＾\n\
         ERROR: <input>:1:3: Syntax error: extraneous input 'llo' expecting <EOF>\n | héllo\n | \
         .．^",
    );
}

#[test]
fn macros_go_through_lists_and_maps() {
    for text in [
        "l.all(x, x > 0) && !l.all(x, x > 1)",
        "l.exists(x, x == 2) && !l.exists(x, x == 9)",
        "l.exists_one(x, x == 2)",
        "l.map(x, x * 2) == [2, 4, 6]",
        "l.map(x, x > 1, x * 2) == [4, 6]",
        "l.filter(x, x > 1) == [2, 3]",
        "m.all(k, m[k] > 0) && m.map(k, k) == ['x', 'y']",
        "has(self.a) && !has(self.nope) && has(o.a)",
        "has(self.nested.k.v) && !has(self.nested.k.w)",
        // An error in one round does not hide a round that decides.
        "[1, 0].exists(x, 1 / x == 1)",
        "[0, 1].exists(x, 1 / x == 1)",
        "![0, 1].all(x, 1 / x == 2)",
        "l.map(x, l.map(y, x * y)) == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]",
        "l.all(i, v, i + 1 == v) && m.exists(k, v, k == 'y' && v == 2)",
        "m.existsOne(k, v, v == 2)",
        "l.transformList(i, v, i * v) == [0, 2, 6]",
        "l.transformList(i, v, i > 0, v) == [2, 3]",
        "m.transformMap(k, v, v + 1) == {'x': 2, 'y': 3}",
        "m.transformMap(k, v, v > 1, v) == {'y': 2}",
        "m.transformMapEntry(k, v, {k + '!': v}) == {'x!': 1, 'y!': 2}",
    ] {
        holds(text);
    }
    check("[0].all(x, 1 / x == 1)", "error: division by zero");
    check(
        "m.transformMapEntry(k, v, {'same': v})",
        "error: insert failed: key same already exists",
    );
}

#[test]
fn optional_values_hold_or_do_not() {
    for text in [
        "self.?a == optional.of(1) && self.?nope == optional.none()",
        "self.?nope.orValue(5) == 5 && self.?a.orValue(5) == 1",
        "self.?nested.k.v.orValue(false) && !self.?nested.x.y.hasValue()",
        "l[?0].value() == 1 && !l[?9].hasValue() && m[?'x'].hasValue()",
        "[?self.?a, ?self.?nope] == [1]",
        "{?'a': self.?a, ?'b': self.?nope} == {'a': 1}",
        "self.?a.optMap(x, x + 1) == optional.of(2)",
        "self.?nope.optMap(x, x + 1) == optional.none()",
        "self.?a.optFlatMap(x, optional.of(x + 1)).value() == 2",
        "self.?nope.or(self.?a).value() == 1",
        "optional.ofNonZeroValue('').hasValue() == false",
        "self.?a.optMap(x, self.?f.optMap(y, y + double(x))).value().value() == 2.5",
    ] {
        holds(text);
    }
}

#[test]
fn text_functions_count_characters() {
    for text in [
        "'hello'.charAt(4) == 'o' && 'hello'.charAt(5) == ''",
        "'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('ello', 2) == 7",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "'TacoCat'.lowerAscii() == 'tacocat' && 'TacoCÆt'.upperAscii() == 'TACOCÆT'",
        "'hello hello'.replace('he', 'we') == 'wello wello'",
        "'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'a b c'.split(' ') == ['a', 'b', 'c'] && 'a b c'.split(' ', 2) == ['a', 'b c']",
        "'abc'.split('') == ['a', 'b', 'c'] && 'a b'.split(' ', 0) == []",
        "['a', 'b'].join() == 'ab' && ['a', 'b'].join(',') == 'a,b'",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'",
        "'  trim\\n '.trim() == 'trim'",
        "'héllo'.contains('é') && s.startsWith('wo') && s.endsWith('rd')",
        "s.matches('^w.r') && matches(s, 'o') && !s.matches('^o')",
        "'abc 123'.find('[0-9]+') == '123' && 'x'.find('[0-9]') == ''",
        "'1 2 3'.findAll('[0-9]') == ['1', '2', '3'] && '1 2 3'.findAll('[0-9]', 2) == ['1', '2']",
        "'%s is %d: %.2f %x %b %%'.format([dyn('a'), 5, 1.234, 255, 5]) == 'a is 5: 1.23 ff 101 %'",
        "'%s'.format([[dyn(1), 'a', true]]) == '[1, \"a\", true]'",
        "'%e'.format([1052.032911275]) == '1.052033e+03'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "self.text.size() == 5",
    ] {
        holds(text);
    }
}

#[test]
fn lists_are_ordered_summed_and_compared() {
    for text in [
        "[1, 2].isSorted() && !self.list.isSorted() && ['a', 'b'].isSorted()",
        "l.sum() == 6 && [1.5, 2.5].sum() == 4.0 && dyn([]).sum() == 0",
        "l.min() == 1 && l.max() == 3 && ['b', 'a'].min() == 'a'",
        "[1, 2, 2].indexOf(2) == 1 && [1, 2, 2].lastIndexOf(2) == 2 && l.indexOf(9) == -1",
        "sets.contains([1, 2, 3], [2]) && !sets.contains([1], [2])",
        "sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1, 2], [2, 3])",
        "[duration('1s'), duration('2s')].sum() == duration('3s')",
    ] {
        holds(text);
    }
}

#[test]
fn times_are_taken_apart_in_any_zone() {
    for text in [
        "o.when > timestamp('2026-01-01T00:00:00Z')",
        "o.when.getFullYear() == 2026 && o.when.getMonth() == 0 && o.when.getDate() == 2",
        "o.when.getDayOfMonth() == 1 && o.when.getDayOfYear() == 1 && o.when.getDayOfWeek() == 5",
        "o.when.getHours() == 3 && o.when.getHours('+02:00') == 5 && o.when.getHours('-04:30') == 22",
        "o.when.getMinutes() == 4 && o.when.getSeconds() == 5 && o.when.getMilliseconds() == 678",
        "duration('1h30m').getMinutes() == 90 && duration('1.5s').getMilliseconds() == 500",
        "string(duration('1h1s')) == '3601s' && duration('-1.5s') < duration('0s')",
        "timestamp('2026-01-01T00:00:00Z') + duration('1h') == timestamp('2026-01-01T01:00:00Z')",
        "timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('24h')",
        "timestamp(0) == timestamp('1970-01-01T00:00:00Z') && int(timestamp(5)) == 5",
    ] {
        holds(text);
    }
}

#[test]
fn kubernetes_libraries_are_there() {
    for text in [
        "quantity('1Gi') == quantity('1024Mi') && quantity('1k').asInteger() == 1000",
        "isQuantity('1.5Gi') && !isQuantity('Three') && quantity('-1').sign() == -1",
        "quantity('50k').add(20).compareTo(quantity('50020')) == 0",
        "quantity('50k').sub(quantity('20k')).isLessThan(quantity('31k'))",
        "!quantity('50.1').isInteger() && quantity('1.5').asApproximateFloat() == 1.5",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('10.0.0.300')",
        "ip('127.0.0.1').isLoopback() && ip('::').isUnspecified() && ip('8.8.8.8').isGlobalUnicast()",
        "ip.isCanonical('::1') && !ip.isCanonical('0:0::1')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.0.0.1/8').masked() == cidr('10.0.0.0/8')",
        "cidr('10.0.0.0/8').prefixLength() == 8 && string(cidr('10.0.0.0/8').ip()) == '10.0.0.0'",
        "isCIDR('::/0') && !isCIDR('10.0.0.0') && !isCIDR('10.0.0.0/33')",
        "url('https://u:p@example.com:80/a%20b?x=1&x=2&y=').getHost() == 'example.com:80'",
        "url('https://example.com:80/').getPort() == '80' && url('http://[::1]:8/').getHostname() == '::1'",
        "url('https://e.com/a b').getEscapedPath() == '/a%20b' && url('/p').getScheme() == ''",
        "url('https://e.com/?x=1&x=2').getQuery() == {'x': ['1', '2']}",
        "isURL('https://e.com') && isURL('/path') && !isURL('relative') && !isURL('../x')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-alpha').compareTo(semver('1.0.0')) == -1",
        "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v1.0', true) && semver('01.2', true).minor() == 2",
        "format.dns1123Label().validate('ok') == optional.none()",
        "format.dns1123Label().validate('No').hasValue() && format.named('uuid').hasValue()",
        "!format.named('nope').hasValue() && !format.qualifiedName().validate('a/b').hasValue()",
    ] {
        holds(text);
    }
    check(
        "ip('10.0.0.300')",
        "error: IP Address \"10.0.0.300\" parse error during conversion from string: \
         ParseAddr(\"10.0.0.300\"): unable to parse IP",
    );
}

#[test]
fn a_run_ends_when_it_costs_too_much() {
    let long = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]";
    let nested = format!(
        "{long}.all(a, {long}.all(b, {long}.all(c, {long}.all(d, {long}.all(e, {long}.all(f, true))))))"
    );
    check(
        &nested,
        "error: operation cancelled: actual cost limit exceeded",
    );
}

#[test]
fn what_all_runs_cost_is_counted() {
    let program = Program::compile("l.all(x, x > 0)", &env()).unwrap();
    let data = json!([1, 2, 3]);
    let bindings = Bindings::new().set("l", free(&data));
    let mut budget = Budget::new(30);
    assert!(program.eval(&bindings, &mut budget).is_ok());
    assert!(!budget.is_exhausted());
    assert!(program.eval(&bindings, &mut budget).is_ok());
    assert!(budget.is_exhausted());
}

#[test]
fn deep_and_long_expressions_are_refused_not_crashed_on() {
    let deep = format!("{}1{}", "(".repeat(300), ")".repeat(300));
    check(
        &deep,
        "ERROR: <input>:1:1: expression recursion limit exceeded: 250",
    );
    holds(&format!("{}true{}", "(".repeat(200), ")".repeat(200)));
    let chain = format!("{}1 > 0", "1 + ".repeat(900));
    holds(&chain);
    let chain = format!("{}1 > 0", "1 + ".repeat(2000));
    assert!(run(&chain).contains("recursion limit"));
    let long = format!("'{}' == ''", "x".repeat(20_000));
    assert!(run(&long).contains("code point size exceeds limit"));
}

#[test]
fn objects_can_be_made_where_their_type_is_declared() {
    let patch = Type::object(
        "JSONPatch",
        vec![("op", Type::String), ("value", Type::Dyn)],
    );
    let env = Env::new().object("JSONPatch", patch).family("Object");
    let run = |text: &str| match Program::compile(text, &env) {
        Ok(program) => {
            let value = program.eval(&Bindings::new(), &mut Budget::new(PER_OBJECT));
            value.unwrap().to_json().unwrap()
        }
        Err(error) => json!(error.to_string()),
    };
    assert_eq!(
        run("[JSONPatch{op: 'add', value: Object.spec{replicas: 1}}]"),
        json!([{"op": "add", "value": {"replicas": 1}}])
    );
    assert!(
        run("JSONPatch{nope: 1}")
            .as_str()
            .unwrap()
            .contains("undefined field 'nope'")
    );
    assert!(
        run("Nope{a: 1}")
            .as_str()
            .unwrap()
            .contains("undeclared reference to 'Nope'")
    );
}
