//! Shows readings to whoever raises alerts: what of an event can be compared with something.

use std::sync::Arc;

use eyot_devices::Tap;
use eyot_runtime::reading::Value;
use eyot_support::{Measured, Observed, Support};

/// Show all readings to `support`.
pub fn by(support: Support) -> Tap {
    Arc::new(move |namespace, event| {
        for reading in &event.readings {
            if let Some(value) = measured(&reading.value) {
                support.observe(&Observed {
                    namespace,
                    device: &event.device,
                    profile: &event.profile,
                    resource: &reading.resource,
                    value,
                });
            }
        }
    })
}

fn measured(value: &Value) -> Option<Measured<'_>> {
    Some(Measured::Number(match value {
        Value::Bool(flag) => return Some(Measured::Flag(*flag)),
        Value::String(text) => return Some(Measured::Text(text)),
        Value::Uint8(number) => f64::from(*number),
        Value::Uint16(number) => f64::from(*number),
        Value::Uint32(number) => f64::from(*number),
        // Beyond 2^53 the nearest number is compared.
        Value::Uint64(number) => *number as f64,
        Value::Int8(number) => f64::from(*number),
        Value::Int16(number) => f64::from(*number),
        Value::Int32(number) => f64::from(*number),
        Value::Int64(number) => *number as f64,
        Value::Float32(number) => f64::from(*number),
        Value::Float64(number) => *number,
        _ => return None,
    }))
}
