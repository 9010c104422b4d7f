//! How a process that libcontainer has made becomes the program that it is to run.
//!
//! The checks run inside the finished container (its root, its user), just before the program
//! would be executed, so that "no such program" is an error of `create` and not an exit code that
//! the user must guess at.

use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use libcontainer::{
    oci_spec::runtime::{LinuxSeccomp, Spec},
    seccomp::initialize_seccomp,
    workload::{Executor, ExecutorError, ExecutorValidationError},
};
use nix::unistd::{AccessFlags, access, execv};

/// Marks an error text of this file on its way through libcontainer, which passes plain strings.
pub(super) const MARK: &str = "program: ";

/// Finds the program as a shell would, and executes it.
#[derive(Clone)]
pub(super) struct Program {
    /// The filter that this must install itself: libcontainer gives one to a container's first
    /// process, but none to a program that is executed in the container later.
    seccomp: Option<LinuxSeccomp>,
}

impl Program {
    /// The program of the container itself.
    pub(super) fn first() -> Self {
        Self { seccomp: None }
    }

    /// One that is executed in the running container of this bundle.
    pub(super) fn in_container(
        bundle: &Path,
    ) -> Result<Self, libcontainer::oci_spec::OciSpecError> {
        let spec = Spec::load(bundle.join("config.json"))?;
        let linux = spec.linux().as_ref();
        Ok(Self {
            seccomp: linux.and_then(|linux| linux.seccomp().clone()),
        })
    }

    fn confine(&self) -> Result<(), ExecutorError> {
        let Some(seccomp) = &self.seccomp else {
            return Ok(());
        };
        // By now the process has no privilege left, and without one the kernel takes a filter only
        // from those who give up set-user-id programs.
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| ExecutorError::Other(format!("no_new_privs: {errno}")))?;
        initialize_seccomp(seccomp)
            .map(drop)
            .map_err(|error| ExecutorError::Other(format!("seccomp: {error}")))
    }
}

impl Executor for Program {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        find(spec).map(drop).map_err(|reason| {
            ExecutorValidationError::ArgValidationError(format!("{MARK}{reason}"))
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the container's process ends, not the host"
    )]
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let path = find(spec).map_err(ExecutorError::Other)?;
        let arguments = arguments(spec)
            .iter()
            .map(|argument| CString::new(argument.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ExecutorError::InvalidArg)?;
        let program =
            CString::new(path.as_os_str().as_bytes()).map_err(|_| ExecutorError::InvalidArg)?;
        self.confine()?;
        let Err(errno) = execv(&program, &arguments);
        // Standard error is the container's log by now; 126 is a shell's code for this.
        let reason = match errno {
            nix::Error::ENOEXEC => "it is neither a program for this machine nor a script",
            nix::Error::ENOENT => "its interpreter or dynamic loader is missing in the image",
            other => other.desc(),
        };
        let text = format!("cannot execute {}: {reason}\n", path.display());
        let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
        std::process::exit(126)
    }
}

fn arguments(spec: &Spec) -> &[String] {
    spec.process()
        .as_ref()
        .and_then(|process| process.args().as_deref())
        .unwrap_or_default()
}

fn find(spec: &Spec) -> Result<PathBuf, String> {
    let name = arguments(spec)
        .first()
        .ok_or("the container has no command")?;
    if name.contains('/') {
        return runnable(Path::new(name)).map_err(|reason| format!("{name:?}: {reason}"));
    }
    let environment = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().as_deref());
    let search = environment
        .unwrap_or_default()
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    let mut refused = None;
    for directory in search.split(':').filter(|directory| !directory.is_empty()) {
        let candidate = Path::new(directory).join(name);
        match runnable(&candidate) {
            Ok(path) => return Ok(path),
            Err(reason) if candidate.exists() => refused = Some(reason),
            Err(_) => {}
        }
    }
    match refused {
        Some(reason) => Err(format!("{name:?}: {reason}")),
        None => Err(format!(
            "{name:?}: executable file not found in $PATH ({search})"
        )),
    }
}

fn runnable(path: &Path) -> Result<PathBuf, &'static str> {
    match path.metadata() {
        Err(_) => Err("no such file"),
        Ok(metadata) if metadata.is_dir() => Err("is a directory"),
        Ok(_) => match access(path, AccessFlags::X_OK) {
            Ok(()) => Ok(path.to_owned()),
            Err(_) => Err("permission denied: the file is not executable for the container's user"),
        },
    }
}
