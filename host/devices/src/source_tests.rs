use serde_json::json;

use super::*;

fn profile() -> DeviceProfile {
    DeviceProfile::from_edgex_yaml(
        r"
name: press
deviceResources:
- name: Heat
  attributes: { startingAddress: 4 }
  properties: { valueType: Int16, readWrite: RW, scale: '0.1', units: °C, maximum: '90' }
- name: Mode
  tags: { unit: A }
  properties: { valueType: Uint8, readWrite: RW, defaultValue: 1 }
- name: Alarm
  properties: { valueType: Bool, readWrite: R, assertion: 'false' }
- name: Reset
  properties: { valueType: Bool, readWrite: W }
deviceCommands:
- name: All
  readWrite: RW
  resourceOperations:
  - { deviceResource: Heat }
  - { deviceResource: Mode, mappings: { '0': 'off', '1': 'on' } }
- name: Broken
  resourceOperations: [ { deviceResource: Nope } ]
",
    )
    .unwrap()
}

fn names() -> Names {
    Names {
        service: "s".into(),
        device: "d".into(),
        profile: "press".into(),
        tags: vec![],
    }
}

fn raw(resource: &str, value: Value) -> Reading {
    Reading {
        resource: resource.into(),
        value,
        origin: 0,
        units: String::new(),
        tags: vec![],
    }
}

#[test]
fn a_command_reads_its_resources_in_order_and_makes_one_event() {
    let plan = plan(&profile(), "All").unwrap();
    assert_eq!(plan.requests[0].resource, "Heat");
    assert_eq!(plan.requests[0].attributes, r#"{"startingAddress":4}"#);
    assert_eq!(plan.requests[1].value_type, "Uint8");
    let answers = vec![raw("Heat", Value::Int16(234)), raw("Mode", Value::Uint8(1))];
    let answer = plan.event(&names(), answers, 99).unwrap();
    assert_eq!(answer.broken_assertion, None);
    let readings = answer.event.readings;
    assert_eq!(readings[0].value, Value::Float64(23.4));
    assert_eq!((readings[0].units.as_str(), readings[0].origin), ("°C", 99));
    assert_eq!(readings[1].value, Value::String("on".into()));
    assert_eq!(readings[1].tags, [("unit".to_owned(), "A".to_owned())]);
}

#[test]
fn a_driver_that_breaks_its_contract_is_told_how() {
    let plan = plan(&profile(), "All").unwrap();
    let check = |answers: Vec<Reading>, said: &str| {
        let error = plan.event(&names(), answers, 1).unwrap_err();
        assert!(error.contains(said), "{error}");
    };
    check(vec![raw("Heat", Value::Int16(1))], "1 readings for 2");
    check(
        vec![raw("Mode", Value::Uint8(1)), raw("Heat", Value::Int16(1))],
        "Mode where Heat",
    );
    check(
        vec![raw("Heat", Value::Int32(1)), raw("Mode", Value::Uint8(1))],
        "Int32 for Heat",
    );
}

#[test]
fn a_broken_assertion_is_seen() {
    let plan = plan(&profile(), "Alarm").unwrap();
    let answer = plan
        .event(&names(), vec![raw("Alarm", Value::Bool(true))], 1)
        .unwrap();
    assert_eq!(answer.broken_assertion.as_deref(), Some("Alarm"));
}

#[test]
fn a_write_takes_texts_numbers_mappings_and_defaults() {
    let values = |json: Json| -> BTreeMap<String, Json> { serde_json::from_value(json).unwrap() };
    let write = |json| writes(&profile(), "All", &values(json)).unwrap();
    let requests = write(json!({"Heat": "23.4", "Mode": "off"}));
    assert_eq!(requests[0].value, Value::Int16(234));
    assert_eq!(requests[1].value, Value::Uint8(0));
    let requests = write(json!({"Heat": 23}));
    assert_eq!(requests[0].value, Value::Int16(230));
    assert_eq!(requests[1].value, Value::Uint8(1));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let fails = |source: &str, json: Json, said: &str| {
        let values = serde_json::from_value(json).unwrap();
        let error = writes(&profile(), source, &values).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    fails("All", json!({}), "no value for resource Heat");
    fails(
        "All",
        json!({"Heat": "1", "Cold": "1"}),
        "Cold is no resource of All",
    );
    fails("Heat", json!({"Heat": "90.1"}), "above the maximum of 90");
    fails(
        "Heat",
        json!({"Heat": "warm"}),
        "\"warm\" is not a value of type Int16",
    );
    fails("Alarm", json!({"Alarm": "true"}), "cannot be written");
    fails("Nope", json!({}), "neither a resource nor a command Nope");
    fails("Broken", json!({}), "names resource Nope");
    assert!(matches!(
        plan(&profile(), "Reset"),
        Err(SourceError::WriteOnly { .. })
    ));
}

#[test]
fn a_driver_may_reach_the_addresses_of_its_device_and_no_others() {
    let device = |json: Json| {
        let mut device = Device::new("d", eyot_api::DeviceSpec::default());
        device.spec.protocols = serde_json::from_value(json).unwrap();
        grants(&device).modbus
    };
    assert_eq!(
        device(json!({"modbus-tcp": {"Address": "10.0.0.7", "Port": 1502, "UnitID": "1"}})),
        ["10.0.0.7:1502"]
    );
    assert_eq!(
        device(json!({"modbus-tcp": {"Address": "plc"}})),
        ["plc:502"]
    );
    assert_eq!(
        device(json!({"modbus-tcp": {"Address": "::1", "Port": "1"}})),
        ["[::1]:1"]
    );
    assert_eq!(
        device(json!({"modbus-tcp": {"Address": "plc:1502"}})),
        ["plc:1502"]
    );
    assert_eq!(
        device(json!({"modbus-rtu": {"Address": "/dev/ttyUSB0", "BaudRate": 19200}})),
        ["rtu:///dev/ttyUSB0"]
    );
    assert!(device(json!({"other": {"Path": "/x"}})).is_empty());
}

#[test]
fn sockets_reach_what_the_protocols_name_and_nothing_else() {
    let device = |json: Json| {
        let mut device = Device::new("d", eyot_api::DeviceSpec::default());
        device.spec.protocols = serde_json::from_value(json).unwrap();
        grants(&device).sockets
    };
    for (protocols, place) in [
        (
            json!({"TCP": {"Address": "10.0.0.7", "Port": "161"}}),
            "10.0.0.7:161",
        ),
        (json!({"Onvif": {"Address": "cam"}}), "cam:80"),
        (json!({"snmp": {"Host": "fd00::1"}}), "[fd00::1]:161"),
        (
            json!({"opcua": {"Endpoint": "opc.tcp://plc:4841/x"}}),
            "plc:4841",
        ),
        (json!({"x": {"URL": "http://user:pw@h/y:9"}}), "h:80"),
    ] {
        assert_eq!(device(protocols), [place]);
    }
    assert!(device(json!({"other": {"Address": "10.0.0.7"}})).is_empty());

    let mut mqtt = Device::new("d", eyot_api::DeviceSpec::default());
    let protocols = json!({"mqtt": {"CommandTopic": "c"}});
    mqtt.spec.protocols = serde_json::from_value(protocols).unwrap();
    assert_eq!(grants(&mqtt).mqtt, ["mqtt://local"]);
    let protocols = json!({"mqtt": {"CommandTopic": "c", "Broker": "mqtt://h:1"}});
    mqtt.spec.protocols = serde_json::from_value(protocols).unwrap();
    assert_eq!(grants(&mqtt).mqtt, ["mqtt://h:1"]);

    let properties = |json: Json| serde_json::from_value(json).unwrap();
    let text = properties(json!({"discovery": "10.0.0.0/24:161, 239.255.255.250:3702"}));
    let list = properties(json!({"discovery": ["10.0.0.0/24:161", "239.255.255.250:3702"]}));
    let wanted = ["10.0.0.0/24:161", "239.255.255.250:3702"];
    assert_eq!(discovery_grants(&text).sockets, wanted);
    assert_eq!(discovery_grants(&list).sockets, wanted);
    assert!(discovery_grants(&BTreeMap::new()).sockets.is_empty());
}
