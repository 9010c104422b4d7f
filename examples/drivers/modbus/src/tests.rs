use eyot_sdk::{ValueType, modbus::Simulated};

use super::*;

fn modbus(transport: Simulated) -> Modbus<Simulated> {
    let endpoint = Endpoint { address: "127.0.0.1:502".into(), unit: 1, timeout_ms: 0 };
    Modbus { transport, endpoint }
}

fn attributes(table: &str, address: &str) -> Attributes {
    Attributes {
        primary_table: Table::try_from(table.to_owned()).unwrap(),
        starting_address: address.parse().unwrap_or_else(|error| panic!("{error}")),
        raw_type: None,
        is_byte_swap: false,
        is_word_swap: false,
        string_register_size: None,
    }
}

#[track_caller]
fn read_back(attributes: Attributes, value_type: ValueType, words: &[u16], expected: Value) {
    let address = attributes.starting_address.register;
    let mut plc = modbus(Simulated::default().with_holding(address, words));
    let request = ReadRequest { resource: "R", value_type, attributes: &attributes };
    let readings = plc.read(&[request]).unwrap();
    assert_eq!(readings[0].value, expected);
    if attributes.starting_address.bit.is_none() {
        let request = WriteRequest { resource: "R", value: &expected, attributes: &attributes };
        plc.transport.holding.clear();
        plc.write(&[request]).unwrap();
        let written: Vec<u16> = (0..words.len() as u16).map(|n| plc.transport.holding[&(address + n)]).collect();
        assert_eq!(written, words);
    }
}

#[test]
fn values_are_read_and_written_in_every_form() {
    let holding = |address| attributes("HOLDING_REGISTERS", address);
    let raw = |raw_type: &str| Attributes { raw_type: Some(raw_type.into()), ..holding("5") };
    read_back(holding("1"), ValueType::Int16, &[0xfff6], Value::Int16(-10));
    read_back(holding("1"), ValueType::Uint32, &[1, 2], Value::Uint32(0x10002));
    read_back(holding("1"), ValueType::Float32, &[0x41ac, 0], Value::Float32(21.5));
    read_back(holding("1"), ValueType::Float64, &[0x4035, 0x8000, 0, 0], Value::Float64(21.5));
    read_back(holding("1"), ValueType::Int64, &[0xffff, 0xffff, 0xffff, 0xfffe], Value::Int64(-2));
    read_back(holding("1"), ValueType::Bool, &[1], Value::Boolean(true));
    read_back(holding("4003.5"), ValueType::Bool, &[0x20], Value::Boolean(true));
    read_back(raw("Int16"), ValueType::Float32, &[0xfff6], Value::Float32(-10.0));
    let words = Attributes { is_word_swap: true, ..holding("1") };
    read_back(words, ValueType::Float32, &[0, 0x41ac], Value::Float32(21.5));
    let bytes = Attributes { is_byte_swap: true, ..holding("1") };
    read_back(bytes, ValueType::Float32, &[0xac41, 0], Value::Float32(21.5));
    let text = Attributes { string_register_size: Some(3), ..holding("1") };
    read_back(text, ValueType::String, &[0x6879, 0x6f74, 0], Value::Text("hyot".into()));
}

#[test]
fn neighbours_share_a_request_and_strangers_do_not() {
    let mut plc = modbus(
        Simulated::default()
            .with_holding(0, &[1, 2, 3, 4])
            .with_holding(100, &[5])
            .with_coils(2, &[true]),
    );
    let all = [("2", ValueType::Uint32), ("0", ValueType::Uint16), ("100", ValueType::Uint16), ("1", ValueType::Uint16)];
    let all = all.map(|(address, value_type)| (attributes("holding_registers", address), value_type));
    let coil = attributes("COILS", "2");
    let mut requests: Vec<_> = all
        .iter()
        .map(|(attributes, value_type)| ReadRequest { resource: "R", value_type: *value_type, attributes })
        .collect();
    requests.push(ReadRequest { resource: "C", value_type: ValueType::Bool, attributes: &coil });
    let values: Vec<Value> = plc.read(&requests).unwrap().into_iter().map(|reading| reading.value).collect();
    let expected =
        [Value::Uint32(0x30004), Value::Uint16(1), Value::Uint16(5), Value::Uint16(2), Value::Boolean(true)];
    assert_eq!(values, expected);
    assert_eq!(plc.transport.requests, 3);
}

#[test]
fn no_request_asks_for_more_than_the_protocol_allows() {
    let mut plc = modbus(Simulated::default().with_holding(0, &[7; 300]));
    let all: Vec<Attributes> = (0..300).map(|n| attributes("HOLDING_REGISTERS", &n.to_string())).collect();
    let requests: Vec<_> = all
        .iter()
        .map(|attributes| ReadRequest { resource: "R", value_type: ValueType::Uint16, attributes })
        .collect();
    assert_eq!(plc.read(&requests).unwrap().len(), 300);
    assert_eq!(plc.transport.requests, 3);
}

#[test]
fn what_is_wrong_is_blamed_on_its_attribute() {
    #[track_caller]
    fn blames(attributes: Attributes, value_type: ValueType, attribute: &str) {
        let mut plc = modbus(Simulated::default());
        let request = ReadRequest { resource: "R", value_type, attributes: &attributes };
        let error = plc.read(&[request]).unwrap_err();
        let Error::Invalid(invalid) = error else { panic!("{error:?}") };
        assert_eq!(invalid.field, format!("deviceResources[R].attributes.{attribute}"));
    }
    blames(attributes("COILS", "1"), ValueType::Int16, "primaryTable");
    blames(attributes("HOLDING_REGISTERS", "1"), ValueType::String, "stringRegisterSize");
    blames(attributes("HOLDING_REGISTERS", "1"), ValueType::Object, "rawType");
    let raw = Attributes { raw_type: Some("Int13".into()), ..attributes("HOLDING_REGISTERS", "1") };
    blames(raw, ValueType::Int16, "rawType");
}

#[test]
fn a_device_is_opened_by_its_properties() {
    let open = |properties: &str| {
        let protocol = eyot_sdk::Protocol { name: "modbus-tcp".into(), properties: properties.into() };
        Modbus::<Simulated>::open(&Device { name: "d".into(), profile: "p".into(), protocols: vec![protocol] })
            .map(|modbus| modbus.endpoint)
    };
    let endpoint = open(r#"{"Address":"10.0.0.1","Port":"502","UnitID":1,"Timeout":"2"}"#).unwrap();
    assert_eq!((endpoint.address.as_str(), endpoint.unit, endpoint.timeout_ms), ("10.0.0.1:502", 1, 2000));
    let endpoint = open(r#"{"Address":"::1","Port":502,"UnitID":"7","Timeout":"500ms"}"#).unwrap();
    assert_eq!((endpoint.address.as_str(), endpoint.timeout_ms), ("[::1]:502", 500));
    for (properties, field) in [
        (r#"{"Address":"x","Port":1}"#, "protocols.modbus-tcp.UnitID"),
        (r#"{"Address":"x","Port":1,"UnitID":300}"#, "protocols.modbus-tcp.UnitID"),
        (r#"{"Address":"x","Port":1,"UnitID":1,"Timeout":"soon"}"#, "protocols.modbus-tcp.Timeout"),
    ] {
        let Err(Error::Invalid(invalid)) = open(properties) else { panic!("{properties}") };
        assert_eq!(invalid.field, field);
    }
}

#[test]
fn the_input_tables_are_not_written() {
    let mut plc = modbus(Simulated::default());
    for (table, address) in [("INPUT_REGISTERS", "1"), ("DISCRETES_INPUT", "1"), ("HOLDING_REGISTERS", "1.2")] {
        let attributes = attributes(table, address);
        let request = WriteRequest { resource: "R", value: &Value::Boolean(true), attributes: &attributes };
        let error = plc.write(&[request]).unwrap_err();
        assert!(matches!(error, Error::NotSupported(_)), "{table}: {error:?}");
    }
    assert_eq!(plc.transport.requests, 0);
}
