//! Running a program in a container to its end, for probes and lifecycle hooks.

use std::sync::Arc;

use eyot_runtime::{Container, ContainerError, ExecSpec, ProcessControl, process::Source};
use tokio::io::AsyncReadExt;

/// As much of what a program writes is shown.
const OUTPUT: u64 = 10 << 10;

/// The exit code of the program and the beginning of what it said. It is killed if this future is
/// dropped.
pub(super) async fn run(
    container: &dyn Container,
    command: &[String],
) -> Result<(i32, String), ContainerError> {
    let spec = ExecSpec {
        command: command.to_vec(),
        ..ExecSpec::default()
    };
    let process = container.exec(spec).await?;
    let control = Ending(process.control);
    let errors = async {
        match process.stderr {
            Some(stderr) => beginning(stderr).await,
            None => Vec::new(),
        }
    };
    let (exit, mut said, errors) =
        tokio::join!(control.0.wait(), beginning(process.stdout), errors);
    said.extend(errors);
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    Ok((exit.code, said))
}

/// The first of all that a program writes.
async fn beginning(mut from: Source) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = (&mut from).take(OUTPUT).read_to_end(&mut text).await;
    // Read on, so that the program is not kept from writing.
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    text
}

/// Kills a program that is not waited for any more.
struct Ending(Arc<dyn ProcessControl>);

impl Drop for Ending {
    fn drop(&mut self) {
        let control = Arc::clone(&self.0);
        tokio::spawn(async move { control.kill().await });
    }
}
