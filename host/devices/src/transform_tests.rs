use super::*;

fn properties(json: serde_json::Value) -> ResourceProperties {
    serde_json::from_value(json).unwrap_or_default()
}

#[track_caller]
fn check_read(raw: Value, json: serde_json::Value, expected: Value) {
    assert_eq!(read(raw, &properties(json), Arithmetic::Exact), expected);
}

#[track_caller]
fn check_write(text: &str, json: serde_json::Value, expected: Value) {
    assert_eq!(write(text, &properties(json)), Ok(expected));
}

use serde_json::json;

#[test]
fn an_integer_with_a_fractional_scale_is_not_zero() {
    check_read(
        Value::Int16(234),
        json!({"valueType": "Int16", "scale": 0.1}),
        Value::Float64(23.4),
    );
    check_read(
        Value::Uint16(5),
        json!({"valueType": "Uint16", "scale": 0.1}),
        Value::Float64(0.5),
    );
    check_read(
        Value::Int16(7),
        json!({"valueType": "Int16", "scale": 0.001, "offset": 1.5}),
        Value::Float64(1.507),
    );
}

#[test]
fn a_profile_may_ask_for_the_arithmetic_of_edgex() {
    let edgex = |raw, json| read(raw, &properties(json), Arithmetic::Edgex);
    let scale = |scale: f64| json!({ "valueType": "Int16", "scale": scale });
    assert_eq!(edgex(Value::Int16(234), scale(0.1)), Value::Int16(0));
    assert_eq!(edgex(Value::Int16(-3), scale(2.9)), Value::Int16(-6));
    assert_eq!(edgex(Value::Int16(20_000), scale(2.0)), overflow());
    let offset = json!({ "valueType": "Uint8", "offset": -1.5 });
    assert_eq!(edgex(Value::Uint8(7), offset), Value::Uint8(6));
    // Floats are the same either way.
    let float = json!({ "valueType": "Float32", "scale": 0.1 });
    assert_eq!(edgex(Value::Float32(123.0), float), Value::Float32(12.3));
    let profile = |label: &str| {
        let mut profile = DeviceProfile::new("p", eyot_api::DeviceProfileSpec::default());
        profile.metadata.labels = Some([(ARITHMETIC_LABEL.to_owned(), label.to_owned())].into());
        Arithmetic::of(&profile)
    };
    assert_eq!(profile("EdgeX"), Arithmetic::Edgex);
    assert_eq!(profile("exact"), Arithmetic::Exact);
}

#[test]
fn whole_factors_keep_the_type() {
    check_read(
        Value::Int16(-3),
        json!({"valueType": "Int16", "scale": 10, "offset": 2}),
        Value::Int16(-28),
    );
    check_read(
        Value::Uint8(10),
        json!({"valueType": "Uint8", "base": 2}),
        overflow(),
    );
    check_read(
        Value::Uint8(7),
        json!({"valueType": "Uint8", "base": 2}),
        Value::Uint8(128),
    );
}

#[test]
fn floats_stay_floats_of_their_width() {
    check_read(
        Value::Float32(123.0),
        json!({"valueType": "Float32", "scale": 0.1}),
        Value::Float32(12.3),
    );
    check_read(
        Value::Float32(3e38),
        json!({"valueType": "Float32", "scale": 10}),
        Value::String("overflow".into()),
    );
    check_read(
        Value::Float64(f64::NAN),
        json!({"valueType": "Float64"}),
        Value::String("NaN".into()),
    );
}

#[test]
fn mask_comes_before_shift_and_shift_before_scale() {
    check_read(
        Value::Uint16(0xABCD),
        json!({"valueType": "Uint16", "mask": 0x0FF0, "shift": -4, "scale": 2}),
        Value::Uint16(0x178),
    );
    check_read(
        Value::Int16(-1),
        json!({"valueType": "Int16", "mask": 0xF, "shift": 1}),
        Value::Int16(30),
    );
    check_read(
        Value::Uint8(0xFF),
        json!({"valueType": "Uint8", "shift": 4}),
        overflow(),
    );
}

#[test]
fn overflow_of_whole_numbers_is_said_and_not_wrapped() {
    check_read(
        Value::Int16(32767),
        json!({"valueType": "Int16", "scale": 2}),
        overflow(),
    );
    check_read(
        Value::Uint8(1),
        json!({"valueType": "Uint8", "offset": -2}),
        overflow(),
    );
}

#[test]
fn texts_and_booleans_pass_unchanged() {
    let all = json!({"valueType": "String", "scale": 2, "mask": 1, "offset": 4});
    check_read(
        Value::String("x".into()),
        all.clone(),
        Value::String("x".into()),
    );
    check_read(Value::Bool(true), all, Value::Bool(true));
}

#[test]
fn writing_reverses_reading() {
    check_write(
        "23.4",
        json!({"valueType": "Int16", "scale": 0.1}),
        Value::Int16(234),
    );
    check_write(
        "-28",
        json!({"valueType": "Int16", "scale": 10, "offset": 2}),
        Value::Int16(-3),
    );
    check_write(
        "12.3",
        json!({"valueType": "Float32", "scale": 0.1}),
        Value::Float32(123.0),
    );
    check_write(
        "128",
        json!({"valueType": "Uint8", "base": 2}),
        Value::Uint8(7),
    );
    check_write(
        "188",
        json!({"valueType": "Uint16", "mask": 0x0FF0, "shift": -4}),
        Value::Uint16(0x0BC0),
    );
    check_write("true", json!({"valueType": "Bool"}), Value::Bool(true));
}

#[test]
fn a_value_out_of_range_is_refused_with_the_limit() {
    let limits = json!({"valueType": "Int16", "scale": 0.1, "minimum": 0, "maximum": 100});
    let error = write("100.5", &properties(limits.clone()))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "100.5 is above the maximum of 100");
    let error = write("-1", &properties(limits.clone()))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "-1 is below the minimum of 0");
    let error = write("hot", &properties(limits)).unwrap_err().to_string();
    assert_eq!(error, "\"hot\" is not a value of type Int16");
    let error = write(
        "5000",
        &properties(json!({"valueType": "Int16", "scale": 0.1})),
    );
    assert!(
        matches!(error, Err(WriteError::Overflow { .. })),
        "{error:?}"
    );
    let error = write("1.5", &properties(json!({"valueType": "Int16"})));
    assert!(matches!(error, Err(WriteError::Parse(_))), "{error:?}");
}

#[test]
fn an_assertion_compares_what_people_see() {
    let expected = properties(json!({"valueType": "Float32", "assertion": "1.5"}));
    assert!(asserted(&Value::Float32(1.5), &expected));
    assert!(!asserted(&Value::Float32(1.6), &expected));
    assert!(asserted(
        &Value::Bool(true),
        &properties(json!({"valueType": "Bool"}))
    ));
}
