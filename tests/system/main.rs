//! The whole-system suite: the real program, real clients (kubectl, an MQTT client, skopeo), a
//! simulated PLC that speaks real Modbus, real kernel isolation.
//!
//! Everything happens in a network namespace that this process makes for itself before its first
//! thread, so no test touches the machine's own network, and ports never collide with it.
//! Cases that need root or a tool say so loudly when they are skipped.

mod autonomy;
mod bad_input;
mod census;
mod clients;
mod container;
mod crash;
mod device;
mod drivers;
mod edge;
mod exporters;
mod fleet;
mod guest_net;
mod hooks;
#[expect(dead_code, reason = "the benchmark uses more of it")]
mod host;
mod hostile;
mod images;
mod jobs;
mod keep;
mod kube_rs;
mod kubectl;
mod ledger;
mod lifecycle;
mod loss;
mod outage;
mod peers;
mod pipelines;
mod reach;
mod registry;
mod resources;
mod security;
mod servers;
mod service;
mod share;
mod site;
mod soak;
mod support;
mod tools;
mod usage;
mod verbs;
mod volume;
mod wasm;
mod wire;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let isolated = tools::enter_private_network();
    let mut arguments = Arguments::from_args();
    // The cases share one host on a small machine; more threads only make them slower.
    arguments.test_threads.get_or_insert(2);
    let mut trials = Vec::new();
    for (group, cases) in [
        ("lifecycle", lifecycle::CASES),
        ("kubectl", kubectl::CASES),
        ("kube_rs", kube_rs::CASES),
        ("usage", usage::CASES),
        ("jobs", jobs::CASES),
        ("wasm", wasm::CASES),
        ("guest_net", guest_net::CASES),
        ("container", container::CASES),
        ("security", security::CASES),
        ("hooks", hooks::CASES),
        ("volume", volume::CASES),
        ("resources", resources::CASES),
        ("share", share::CASES),
        ("reach", reach::CASES),
        ("clients", clients::CASES),
        ("registry", registry::CASES),
        ("images", images::CASES),
        ("service", service::CASES),
        ("device", device::CASES),
        ("drivers", drivers::CASES),
        ("hostile", hostile::CASES),
        ("peers", peers::CASES),
        ("edge", edge::CASES),
        ("fleet", fleet::CASES),
        ("autonomy", autonomy::CASES),
        ("outage", outage::CASES),
        ("pipelines", pipelines::CASES),
        ("exporters", exporters::CASES),
        ("support", support::CASES),
        ("bad_input", bad_input::CASES),
        ("ledger", ledger::CASES),
        ("verbs", verbs::CASES),
        ("crash", crash::CASES),
        ("loss", loss::CASES),
        ("keep", keep::CASES),
        ("servers", servers::CASES),
        ("soak", soak::CASES),
    ] {
        for case in cases {
            let name = format!("{group}::{}", case.name);
            let reason = case.needs.iter().find_map(|need| need.missing(isolated));
            trials.push(match reason {
                None => Trial::test(name, || {
                    (case.run)().map_err(|e| Failed::from(format!("{e:#}")))
                }),
                Some(reason) => {
                    eprintln!("SKIPPED {name}: {reason}");
                    Trial::test(name, || Ok(())).with_ignored_flag(true)
                }
            });
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    host::stop_shared();
    if isolated {
        tools::end_the_left();
    }
    conclusion.exit();
}

/// One case: a claim about the program.
pub struct Case {
    /// The claim.
    pub name: &'static str,
    /// Without these it is skipped, loudly.
    pub needs: &'static [tools::Need],
    pub run: fn() -> anyhow::Result<()>,
}

/// `case!(claim, [Need, …])` for the function `claim` in scope.
#[macro_export]
macro_rules! case {
    ($name:ident) => {
        $crate::case!($name, [])
    };
    ($name:ident, [$($need:ident),*]) => {
        $crate::Case { name: stringify!($name), needs: &[$($crate::tools::Need::$need),*], run: $name }
    };
}
