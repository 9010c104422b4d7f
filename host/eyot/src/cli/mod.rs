//! The command line: one file a command.

mod backup;
pub mod cluster;
mod door;
mod image;
mod import;
mod join;
mod leave;
mod new;
mod pipeline;
mod push;
mod reset;
mod restore;
mod salvage;
mod store;
mod subscribe;
mod token;
mod up;

use clap::{Parser, Subcommand};

/// Cloud, edge and devices in one program.
#[derive(Debug, Parser)]
#[command(
    name = "eyot",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the host: Kubernetes API, registry, MQTT broker, node and device services
    Up(Box<up::Up>),
    /// Make this machine a node of a server elsewhere, and stay
    Join(Box<join::Join>),
    /// Evict this machine's pods and delete its Node: it belongs to no server then
    Leave(leave::Leave),
    /// Clear a machine that had joined
    Node(join::Node),
    /// Make, list and delete the tokens that machines join with
    Token(token::Token),
    /// Begin a guest of your own: a project that builds
    New(new::New),
    /// Push a Wasm component, an OCI layout directory or a docker-archive into the registry
    Push(push::Push),
    /// End the containers that a stopped host left running, and remove its bridge, rules and mounts;
    /// give the settings that the host had
    Reset(Box<reset::Reset>),
    /// List, import and remove the images of a running host
    Image(image::Image),
    /// Write a backup of a host, running or not: its objects, keys and certificates
    Backup(backup::Backup),
    /// Make a host's data directory of a backup
    Restore(restore::Restore),
    /// Move the objects of a stopped host into another database
    #[command(subcommand)]
    Store(store::Store),
    /// Print manifests that do what another system is configured to do
    Import(import::Import),
    /// Make a usable database of a damaged one, of what can still be read
    Salvage(salvage::Salvage),
    /// See what passes a pipeline and what it has set aside, and send it again
    Pipeline(pipeline::Pipeline),
    /// Print the messages of the host's MQTT broker as they come
    Subscribe(subscribe::Subscribe),
}

/// Parse the arguments and do what they say.
pub fn run() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Up(command) => command.run(),
        Command::Reset(command) => command.run(),
        Command::Join(command) => command.run(),
        Command::Leave(command) => block_on(command.run()),
        Command::Node(command) => command.run(),
        Command::Token(command) => block_on(command.run()),
        Command::New(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Push(command) => block_on(command.run()),
        Command::Image(command) => block_on(command.run()),
        Command::Backup(command) => block_on(command.run()),
        Command::Restore(command) => block_on(command.run()),
        Command::Store(command) => block_on(command.run()),
        Command::Salvage(command) => block_on(command.run()),
        Command::Pipeline(command) => block_on(command.run()),
        Command::Subscribe(command) => block_on(command.run()),
    }
}

/// The names of the environment variables that are settings.
fn environment_names() -> Vec<String> {
    use clap::CommandFactory;
    let mut names: Vec<String> = Cli::command()
        .get_subcommands()
        .flat_map(|command| command.get_arguments())
        .filter_map(|argument| {
            argument
                .get_env()
                .map(|name| name.to_string_lossy().into_owned())
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
