//! Units of measure, for those who write profiles. They are an offer: a profile may have others.

use serde_json::{Map, json};

use super::super::reply::Reply;

/// By quantity, the units in the spelling of the Unified Code for Units of Measure.
const UNITS: &[(&str, &[&str])] = &[
    ("acceleration", &["m/s2", "[g]"]),
    ("angle", &["deg", "rad"]),
    ("area", &["m2", "har"]),
    ("concentration", &["mol/L", "[ppm]", "[ppb]", "%"]),
    ("current", &["A", "mA"]),
    ("electric-potential", &["V", "mV", "kV"]),
    ("electric-resistance", &["Ohm", "kOhm"]),
    ("energy", &["J", "kW.h", "W.h"]),
    ("flow", &["m3/h", "L/min", "kg/h"]),
    ("force", &["N", "kN"]),
    ("frequency", &["Hz", "kHz", "MHz", "/min"]),
    ("illuminance", &["lx"]),
    ("length", &["m", "mm", "cm", "km", "[in_i]", "[ft_i]"]),
    ("mass", &["kg", "g", "t", "[lb_av]"]),
    ("power", &["W", "kW", "MW", "V.A", "var"]),
    ("pressure", &["Pa", "kPa", "bar", "mbar", "[psi]"]),
    ("relative-humidity", &["%"]),
    ("speed", &["m/s", "km/h"]),
    ("temperature", &["Cel", "K", "[degF]"]),
    ("time", &["s", "ms", "min", "h", "d"]),
    ("volume", &["L", "m3", "mL"]),
];
const SOURCE: &str = "https://ucum.org/ucum";

pub(super) fn all() -> Reply {
    let units: Map<_, _> = UNITS
        .iter()
        .map(|(quantity, values)| {
            let unit = json!({ "source": SOURCE, "values": values });
            ((*quantity).to_owned(), unit)
        })
        .collect();
    Reply::ok(json!({ "uom": { "source": SOURCE, "units": units } }))
}
