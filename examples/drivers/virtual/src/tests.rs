use super::*;

fn device() -> Virtual {
    Virtual::open(&Device {
        name: "d".into(),
        profile: "p".into(),
        protocols: Vec::new(),
    })
    .unwrap()
}

fn read(device: &mut Virtual, resource: &str, value_type: ValueType) -> Value {
    ranged(device, resource, value_type, None, None).unwrap()
}

fn ranged(
    device: &mut Virtual,
    resource: &str,
    value_type: ValueType,
    minimum: Option<f64>,
    maximum: Option<f64>,
) -> Result<Value, Error> {
    let request = ReadRequest {
        resource,
        value_type,
        attributes: &Attributes { minimum, maximum },
    };
    Ok(device.read(&[request])?.remove(0).value)
}

fn write(device: &mut Virtual, resource: &str, value: Value) -> Result<(), Error> {
    let request = WriteRequest {
        resource,
        value: &value,
        attributes: &Attributes {
            minimum: None,
            maximum: None,
        },
    };
    device.write(&[request])
}

#[test]
fn every_type_has_a_value_of_its_type() {
    let mut device = device();
    let names = "Bool String Uint8 Uint16 Uint32 Uint64 Int8 Int16 Int32 Int64 Float32 Float64 \
                 Binary BoolArray StringArray Uint8Array Uint16Array Uint32Array Uint64Array \
                 Int8Array Int16Array Int32Array Int64Array Float32Array Float64Array Object \
                 ObjectArray";
    for name in names.split_whitespace() {
        let value = read(&mut device, name, ValueType::parse(name).unwrap());
        assert_eq!(value.value_type(), name);
        if let Value::Float64(number) = value {
            assert!(number.is_finite());
        }
    }
}

#[test]
fn numbers_keep_to_their_range_and_vary() {
    let mut device = device();
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let value = ranged(&mut device, "R", ValueType::Int16, Some(-3.0), Some(3.0)).unwrap();
        let number = value.as_i128().unwrap();
        assert!((-3..=3).contains(&number), "{number}");
        seen.insert(number);
    }
    assert!(seen.len() > 3, "{seen:?}");
    let wrong = ranged(&mut device, "R", ValueType::Int8, Some(5.0), Some(3.0));
    let Err(Error::Invalid(invalid)) = wrong else {
        panic!("{wrong:?}")
    };
    assert_eq!(invalid.field, "deviceResources[R].attributes.minimum");
}

#[test]
fn what_is_written_stays_until_it_is_random_again() {
    let mut device = device();
    let switch = "EnableRandomization_Speed";
    assert_eq!(
        read(&mut device, switch, ValueType::Bool),
        Value::Boolean(true)
    );
    write(&mut device, "Speed", Value::Uint64(7)).unwrap();
    for _ in 0..3 {
        assert_eq!(
            read(&mut device, "Speed", ValueType::Uint64),
            Value::Uint64(7)
        );
    }
    assert_eq!(
        read(&mut device, switch, ValueType::Bool),
        Value::Boolean(false)
    );
    write(&mut device, switch, Value::Boolean(true)).unwrap();
    assert_ne!(
        read(&mut device, "Speed", ValueType::Uint64),
        Value::Uint64(7)
    );
    write(&mut device, switch, Value::Boolean(false)).unwrap();
    let stands = read(&mut device, "Speed", ValueType::Uint64);
    assert_eq!(read(&mut device, "Speed", ValueType::Uint64), stands);
    assert!(matches!(
        write(&mut device, switch, Value::Int8(1)),
        Err(Error::Invalid(_))
    ));
}
