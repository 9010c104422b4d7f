//! `eyot reset`: end the containers of a host that was stopped, and take down what is in the kernel.

use super::up::Up;

#[derive(Debug, clap::Args)]
pub struct Reset {
    /// The settings that the host was started with.
    #[command(flatten)]
    host: Up,
}

impl Reset {
    pub fn run(self) -> anyhow::Result<()> {
        self.host.run_with(crate::up::reset)
    }
}
