//! A compiled component and the roles that it can play.

use std::sync::OnceLock;

use eyot_runtime::{ContainerError, Image};
use wasmtime::component::{Component, HasData, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::io;

use crate::{artifacts::Broken, capability, sockets, state::State};

pub(crate) type InstancePre = wasmtime::component::InstancePre<State>;

/// What a component can be hosted as, by the interface that it exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Process,
    Web,
    Driver,
    Step,
    Exporter,
}

impl Role {
    /// In the order in which a pod's component is asked: what is more particular comes first,
    /// since a driver may well have a `main` that was left over from its template.
    const ALL: [Self; 5] = [
        Self::Driver,
        Self::Step,
        Self::Exporter,
        Self::Web,
        Self::Process,
    ];

    /// The interface, without its version.
    pub(crate) const fn interface(self) -> &'static str {
        match self {
            Self::Process => "wasi:cli/run",
            Self::Web => "wasi:http/incoming-handler",
            Self::Driver => "eyot:device/driver",
            Self::Step => "eyot:pipeline/step",
            Self::Exporter => "eyot:pipeline/exporter",
        }
    }

    /// The versions of the interface that this host calls.
    const fn version(self) -> &'static str {
        match self {
            Self::Process | Self::Web => "0.2.",
            Self::Driver | Self::Step | Self::Exporter => "0.1.",
        }
    }

    fn is(self, export: &str) -> bool {
        let rest = export
            .strip_prefix(self.interface())
            .and_then(|rest| rest.strip_prefix('@'));
        rest.is_some_and(|version| version.starts_with(self.version()))
    }
}

/// A component, compiled, with its imports resolved once for each role it is used in.
pub(crate) struct Program {
    component: Component,
    exports: Vec<String>,
    prepared: [OnceLock<InstancePre>; Role::ALL.len()],
}

impl Program {
    pub(crate) fn new(component: Component) -> Self {
        let exports = component.component_type();
        let exports = exports
            .exports(component.engine())
            .map(|(name, _)| name.to_string())
            .collect();
        Self {
            component,
            exports,
            prepared: Default::default(),
        }
    }

    pub(crate) fn component(&self) -> &Component {
        &self.component
    }

    /// The role that a pod's container has.
    pub(crate) fn role(&self, image: &Image) -> Result<Role, ContainerError> {
        let found = Role::ALL.into_iter().find(|role| self.has(*role));
        found.ok_or_else(|| broken(image, self.nothing_to_run()))
    }

    pub(crate) fn has(&self, role: Role) -> bool {
        self.exports.iter().any(|export| role.is(export))
    }

    /// Whether it imports one of these interfaces, in any version.
    pub(crate) fn imports(&self, interfaces: &[&str]) -> bool {
        let component = self.component.component_type();
        component.imports(self.component.engine()).any(|(name, _)| {
            let name = name.split('@').next().unwrap_or_default();
            interfaces.contains(&name)
        })
    }

    /// What it exports instead of what was looked for.
    pub(crate) fn exports(&self) -> String {
        if self.exports.is_empty() {
            "nothing".into()
        } else {
            self.exports.join(", ")
        }
    }

    fn nothing_to_run(&self) -> String {
        let newer = self.exports.iter().find(|export| export.contains("@0.3."));
        let remedy = match newer {
            Some(export) => format!("{export} is of WASI 0.3, build for wasm32-wasip2"),
            None => "a component must export one of wasi:cli/run@0.2 (process), \
                     wasi:http/incoming-handler@0.2 (web service), eyot:device/driver@0.1, \
                     eyot:pipeline/step@0.1, eyot:pipeline/exporter@0.1"
                .into(),
        };
        format!("the component exports {}; {remedy}", self.exports())
    }

    /// The component with its imports resolved for `role`; an import that the role does not get is
    /// an error that names it.
    pub(crate) fn prepare(
        &self,
        role: Role,
        linkers: &Linkers,
        image: &Image,
    ) -> Result<&InstancePre, ContainerError> {
        let slot = &self.prepared[role as usize];
        if let Some(pre) = slot.get() {
            return Ok(pre);
        }
        let pre = linkers.of(role).instantiate_pre(&self.component);
        let pre = pre.map_err(|error| self.refused(role, &error, image))?;
        Ok(slot.get_or_init(|| pre))
    }

    /// All imports that the role does not get, so that nobody learns of them one by one.
    fn refused(&self, role: Role, error: &wasmtime::Error, image: &Image) -> ContainerError {
        let text = format!("{error:#}");
        let ty = self.component.component_type();
        let imports = ty.imports(self.component.engine());
        let missing: Vec<String> = imports
            .map(|(name, _)| name.to_string())
            .filter(|name| text.contains(&format!("`{name}`")) || !is_known(role, name))
            .collect();
        let remedies: Vec<String> = missing.iter().map(|import| remedy(role, import)).collect();
        let (Some(first), Some(one)) = (missing.first(), remedies.first()) else {
            return broken(image, text);
        };
        let remedy = match remedies.iter().all(|remedy| remedy == one) {
            true => one.clone(),
            false => {
                let each = missing.iter().zip(&remedies);
                let each = each.map(|(import, remedy)| format!("{import}: {remedy}"));
                each.collect::<Vec<_>>().join("; ")
            }
        };
        let rest = missing.len() - 1;
        let import = match rest {
            0 => first.clone(),
            _ => missing.join(", "),
        };
        ContainerError::NotGranted {
            image: image.reference.clone(),
            import,
            remedy,
        }
    }
}

/// Whether an import is of what this host provides for that role, by its name alone.
fn is_known(role: Role, import: &str) -> bool {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let http = match role {
        Role::Process | Role::Web | Role::Driver => Some("wasi:http/"),
        Role::Step | Role::Exporter => None,
    };
    let mut wasi = WASI.into_iter().chain(http);
    capability::granted(role, import)
        || version.starts_with("0.2.") && wasi.any(|package| interface.starts_with(package))
        // Types that other imports share need nobody to provide them.
        || interface.starts_with("eyot:") && interface.ends_with("/types")
}

/// The packages of WASI 0.2 that every role gets.
const WASI: [&str; 6] = [
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// What to do about an import that a role does not get.
fn remedy(role: Role, import: &str) -> String {
    if import.contains("@0.3.") {
        return "this host provides WASI 0.2; build for wasm32-wasip2".into();
    }
    let others = Role::ALL
        .into_iter()
        .filter(|other| capability::granted(*other, import));
    let others: Vec<_> = others.map(Role::interface).collect();
    match (others.is_empty(), capability::names(role)) {
        (false, _) => format!(
            "only components that export {} get it, and this one is used as {}",
            others.join(" or "),
            role.interface()
        ),
        (true, []) => "this host does not know it; it provides WASI 0.2 here".into(),
        (true, names) => {
            format!(
                "this host does not know it; it provides WASI 0.2 and {} here",
                names.join(", ")
            )
        }
    }
}

fn broken(image: &Image, reason: String) -> ContainerError {
    Broken(reason).of(image)
}

/// What each role gets to import.
pub(crate) struct Linkers {
    workload: Linker<State>,
    driver: Linker<State>,
    step: Linker<State>,
    exporter: Linker<State>,
}

impl Linkers {
    pub(crate) fn new(engine: &wasmtime::Engine) -> wasmtime::Result<Self> {
        let wasi = || -> wasmtime::Result<Linker<State>> {
            let mut linker = Linker::new(engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            streams(&mut linker)?;
            sockets::add_to_linker(&mut linker)?;
            Ok(linker)
        };
        let with = |role| -> wasmtime::Result<Linker<State>> {
            let mut linker = wasi()?;
            capability::add_to_linker(&mut linker, role)?;
            Ok(linker)
        };
        // Process and web service get the same.
        let mut workload = with(Role::Process)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut workload)?;
        let mut driver = with(Role::Driver)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut driver)?;
        let mut exporter = with(Role::Exporter)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut exporter)?;
        Ok(Self {
            workload,
            driver,
            step: with(Role::Step)?,
            exporter,
        })
    }

    fn of(&self, role: Role) -> &Linker<State> {
        match role {
            Role::Process | Role::Web => &self.workload,
            Role::Driver => &self.driver,
            Role::Step => &self.step,
            Role::Exporter => &self.exporter,
        }
    }
}

struct Streams;
impl HasData for Streams {
    type Data<'a> = &'a mut ResourceTable;
}

/// `wasi:io` over nothing but the table: wasmtime's own comes by the whole of WASI, which would be
/// [made](crate::state::Wasi) for every body that is read or written.
fn streams(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    io::error::add_to_linker::<_, Streams>(linker, State::table)?;
    io::poll::add_to_linker::<_, Streams>(linker, State::table)?;
    io::streams::add_to_linker::<_, Streams>(linker, State::table)?;
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_told_by_interface_and_version() {
        assert!(Role::Process.is("wasi:cli/run@0.2.3"));
        assert!(!Role::Process.is("wasi:cli/run@0.3.0"));
        assert!(!Role::Process.is("wasi:cli/runner@0.2.0"));
        assert!(Role::Driver.is("eyot:device/driver@0.1.0"));
        assert!(!Role::Driver.is("eyot:device/driver@0.2.0"));
    }
}
