use eyot_sdk::{Protocol, modbus::Simulated};

use super::*;

fn modbus(transport: Simulated) -> Modbus<Simulated> {
    let endpoint = Endpoint {
        address: "127.0.0.1:502".into(),
        unit: 1,
        timeout_ms: 0,
    };
    Modbus {
        transport,
        endpoint,
    }
}

fn attributes(table: &str, address: &str) -> Attributes {
    Attributes {
        primary_table: table.parse().unwrap(),
        starting_address: address.parse().unwrap_or_else(|error| panic!("{error}")),
        raw_type: None,
        is_byte_swap: false,
        is_word_swap: false,
        string_register_size: None,
        array_length: None,
    }
}

fn read(plc: &mut Modbus<Simulated>, of: &[(&Attributes, ValueType)]) -> Result<Vec<Value>, Error> {
    let request = |(attributes, value_type): &(_, _)| ReadRequest {
        resource: "R",
        value_type: *value_type,
        attributes: *attributes,
    };
    let requests: Vec<_> = of.iter().map(request).collect();
    Ok(plc
        .read(&requests)?
        .into_iter()
        .map(|reading| reading.value)
        .collect())
}

fn write(plc: &mut Modbus<Simulated>, attributes: &Attributes, value: Value) -> Result<(), Error> {
    plc.write(&[WriteRequest {
        resource: "R",
        value: &value,
        attributes,
    }])
}

#[test]
fn one_read_answers_resources_of_every_table() {
    let device = Simulated::default()
        .with_holding(0, &[0x20, 0xfff6])
        .with_input(1, &[0x41ac, 0])
        .with_coils(7, &[true]);
    let mut plc = modbus(device);
    let scaled = Attributes {
        raw_type: "Int16".parse().ok(),
        ..attributes("HOLDING_REGISTERS", "1")
    };
    let values = read(
        &mut plc,
        &[
            (&attributes("COILS", "7"), ValueType::Bool),
            (&attributes("input_registers", "1"), ValueType::Float32),
            (&scaled, ValueType::Float64),
            (&attributes("HOLDING_REGISTERS", "0.5"), ValueType::Bool),
        ],
    );
    let expected = vec![
        Value::Boolean(true),
        Value::Float32(21.5),
        Value::Float64(-10.0),
        Value::Boolean(true),
    ];
    assert_eq!(values, Ok(expected));
    assert_eq!(plc.transport.requests, 3);
}

#[test]
fn coils_and_holding_registers_are_written_and_nothing_else() {
    let mut plc = modbus(Simulated::default());
    write(&mut plc, &attributes("COILS", "3"), Value::Boolean(true)).unwrap();
    assert!(plc.transport.coils[&3]);
    let swapped = Attributes {
        is_word_swap: true,
        ..attributes("HOLDING_REGISTERS", "8")
    };
    write(&mut plc, &swapped, Value::Float32(21.5)).unwrap();
    assert_eq!(
        (plc.transport.holding[&8], plc.transport.holding[&9]),
        (0, 0x41ac)
    );
    for (table, address) in [("INPUT_REGISTERS", "1"), ("DISCRETES_INPUT", "1")] {
        let error = write(&mut plc, &attributes(table, address), Value::Boolean(true));
        assert!(
            matches!(error, Err(Error::NotSupported(_))),
            "{table}: {error:?}"
        );
    }
    assert_eq!(plc.transport.requests, 2);
}

#[test]
fn a_bit_of_a_register_is_written_and_its_neighbours_stay() {
    let mut plc = modbus(Simulated::default().with_holding(10, &[0b1000]));
    let bit = attributes("HOLDING_REGISTERS", "0x0a.2");
    write(&mut plc, &bit, Value::Boolean(true)).unwrap();
    assert_eq!(plc.transport.holding[&10], 0b1100);
    write(&mut plc, &bit, Value::Boolean(false)).unwrap();
    assert_eq!(plc.transport.holding[&10], 0b1000);
}

#[test]
fn arrays_of_registers_and_bits_are_read_and_written() {
    let device = Simulated::default()
        .with_holding(0, &[1, 2, 0xffff])
        .with_coils(0, &[true, false, true]);
    let mut plc = modbus(device);
    let array = |table, address| Attributes {
        array_length: Some(3),
        ..attributes(table, address)
    };
    let (words, bits) = (array("HOLDING_REGISTERS", "0"), array("COILS", "0"));
    let values = read(
        &mut plc,
        &[
            (&words, ValueType::Int16Array),
            (&bits, ValueType::BoolArray),
        ],
    );
    let expected = vec![
        Value::Int16s(vec![1, 2, -1]),
        Value::Booleans(vec![true, false, true]),
    ];
    assert_eq!(values, Ok(expected));
    write(&mut plc, &words, Value::Int16s(vec![7, 8, 9])).unwrap();
    write(&mut plc, &bits, Value::Booleans(vec![false, true, true])).unwrap();
    assert_eq!(plc.transport.holding[&2], 9);
    assert!(!plc.transport.coils[&0]);
    let error = write(&mut plc, &words, Value::Int16s(vec![7]));
    assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
}

#[test]
fn what_is_wrong_is_blamed_on_its_attribute() {
    #[track_caller]
    fn blames(attributes: Attributes, value_type: ValueType, attribute: &str) {
        let error = read(
            &mut modbus(Simulated::default()),
            &[(&attributes, value_type)],
        );
        let Err(Error::Invalid(invalid)) = error else {
            panic!("{error:?}")
        };
        assert_eq!(
            invalid.field,
            format!("deviceResources[R].attributes.{attribute}")
        );
    }
    blames(attributes("COILS", "1"), ValueType::Int16, "primaryTable");
    blames(
        attributes("HOLDING_REGISTERS", "1"),
        ValueType::String,
        "stringRegisterSize",
    );
    blames(
        attributes("HOLDING_REGISTERS", "1"),
        ValueType::Object,
        "rawType",
    );
    blames(
        attributes("HOLDING_REGISTERS", "1"),
        ValueType::Int16Array,
        "arrayLength",
    );
}

#[test]
fn an_error_of_the_device_is_handed_on() {
    let address = attributes("HOLDING_REGISTERS", "1");
    let mut plc = modbus(Simulated::default());
    let error = read(&mut plc, &[(&address, ValueType::Uint16)]);
    assert!(
        matches!(&error, Err(Error::Protocol(e)) if e.code == 2),
        "{error:?}"
    );
    plc.transport.failure = Some(eyot_sdk::modbus::Error::Timeout("5 s".into()));
    let error = read(&mut plc, &[(&address, ValueType::Uint16)]);
    assert_eq!(error, Err(Error::Timeout("5 s".into())));
}

#[test]
fn a_device_is_opened_by_its_properties() {
    let open_by = |name: &str, properties: &str| {
        let protocol = Protocol {
            name: name.into(),
            properties: properties.into(),
        };
        let protocols = vec![protocol];
        let device = Device {
            name: "d".into(),
            profile: "p".into(),
            protocols,
        };
        Modbus::<Simulated>::open(&device).map(|modbus| modbus.endpoint)
    };
    let open = |properties: &str| open_by("modbus-tcp", properties);
    for (name, properties, address) in [
        (
            "modbus-rtu",
            r#"{"Address":"/dev/ttyUSB0","UnitID":1,"BaudRate":"19200","Parity":"E","StopBits":2}"#,
            "rtu:///dev/ttyUSB0?baud=19200&data=8&stop=2&parity=E",
        ),
        (
            "modbus-ascii",
            r#"{"Address":"/dev/ttyS0","UnitID":1}"#,
            "ascii:///dev/ttyS0?baud=9600&data=7&stop=1&parity=N",
        ),
        (
            "modbus-rtu",
            r#"{"Address":"gateway","Port":4001,"UnitID":1}"#,
            "rtu://gateway:4001",
        ),
    ] {
        assert_eq!(open_by(name, properties).unwrap().address, address);
    }
    let endpoint = open(r#"{"Address":"10.0.0.1","Port":"502","UnitID":1,"Timeout":"2"}"#).unwrap();
    assert_eq!(
        (endpoint.address.as_str(), endpoint.unit),
        ("10.0.0.1:502", 1)
    );
    assert_eq!(endpoint.timeout_ms, 2000);
    let endpoint = open(r#"{"Address":"::1","Port":502,"UnitID":"7","Timeout":"500ms"}"#).unwrap();
    assert_eq!(
        (endpoint.address.as_str(), endpoint.timeout_ms),
        ("[::1]:502", 500)
    );
    for (properties, field) in [
        (r#"{"Address":"x","Port":1}"#, "UnitID"),
        (r#"{"Address":"x","Port":1,"UnitID":300}"#, "UnitID"),
        (
            r#"{"Address":"x","Port":1,"UnitID":1,"Timeout":"soon"}"#,
            "Timeout",
        ),
    ] {
        let Err(Error::Invalid(invalid)) = open(properties) else {
            panic!("{properties}")
        };
        assert_eq!(invalid.field, format!("protocols.modbus-tcp.{field}"));
    }
}
