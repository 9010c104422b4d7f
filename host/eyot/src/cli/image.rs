//! `eyot image`: the images that a running host has.

use std::path::PathBuf;

use anyhow::bail;
use eyot_registry::{
    admin::{self, Listed},
    name::{Reference, Selector},
    push::{Artifact, push},
};

use super::door::{Bar, Door, size};

/// Hexadecimal digits of a digest that tell images apart for people.
const SHORT: usize = 12;

#[derive(Debug, clap::Args)]
pub struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the images: those of the embedded registry and those fetched from others
    Ls(Ls),
    /// Take all images of a file, with their names
    Import(Import),
    /// Remove images by name
    Rm(Rm),
}

#[derive(Debug, clap::Args)]
struct Ls {
    /// Only the digests
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    door: Door,
}

#[derive(Debug, clap::Args)]
struct Import {
    /// What `docker save` wrote, an OCI layout (directory or tar), or a Wasm component
    file: PathBuf,
    /// Name of the image, if the file holds one and has no name for it, or the wrong one
    name: Option<String>,
    #[command(flatten)]
    door: Door,
}

#[derive(Debug, clap::Args)]
struct Rm {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    door: Door,
}

impl Image {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Ls(command) => command.run().await,
            Command::Import(command) => command.run().await,
            Command::Rm(command) => command.run().await,
        }
    }
}

impl Ls {
    async fn run(self) -> anyhow::Result<()> {
        let images = admin::list(&self.door.registry, &self.door.options()?).await?;
        if self.quiet {
            for image in images {
                println!("{}", image.digest);
            }
            return Ok(());
        }
        print!("{}", table(&images));
        Ok(())
    }
}

fn table(images: &[Listed]) -> String {
    let head = ["NAME", "DIGEST", "SIZE", "FROM"].map(str::to_owned);
    let mut rows = vec![head];
    for image in images {
        let (_, hex) = image.digest.split_once(':').unwrap_or_default();
        let digest = hex.get(..SHORT).unwrap_or(hex).to_owned();
        let from = if image.fetched { "pull" } else { "push" };
        let tagged = image.names.iter().filter(|name| !name.contains('@'));
        let mut names: Vec<&String> = tagged.collect();
        // One that lost its tag to another has its digest's name only.
        if names.is_empty() {
            names.extend(image.names.first());
        }
        for name in names {
            let size = size(image.size);
            rows.push([name.clone(), digest.clone(), size, from.to_owned()]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [name, digest, size, from] in &rows {
        let [a, b, c] = widths;
        text.push_str(&format!("{name:a$}  {digest:b$}  {size:>c$}  {from}\n"));
    }
    text
}

impl Import {
    async fn run(self) -> anyhow::Result<()> {
        let mut all = Artifact::open_all(&self.file)?;
        if let Some(name) = self.name {
            match all.as_mut_slice() {
                [one] => one.names = vec![name],
                several => bail!(
                    "{} holds {} images: leave the name away to take them all by their own",
                    self.file.display(),
                    several.len()
                ),
            }
        }
        if let Some(nameless) = all.iter().find(|named| named.names.is_empty()) {
            let digest = nameless.artifact.digest().map(ToString::to_string);
            bail!(
                "{} has no name for the image {}: give one after the file",
                self.file.display(),
                digest.unwrap_or_default()
            );
        }
        let options = self.door.options()?;
        let bar = Bar::new();
        for named in &all {
            for name in &named.names {
                let registry = &self.door.registry;
                let place = place(registry, name)?;
                let show = |progress| bar.show(progress);
                let pushed = push(registry, &place, &named.artifact, &options, show).await;
                bar.end();
                println!("{name}@{}", pushed?);
            }
        }
        Ok(())
    }
}

/// Where an image with this name is kept in `registry`: one of another registry under that registry's
/// name, so that pods that ask for it there get it from here.
fn place(registry: &str, name: &str) -> anyhow::Result<String> {
    let reference: Reference = name.parse()?;
    let joint = match reference.selector {
        Selector::Tag(_) => ':',
        Selector::Digest(_) => '@',
    };
    let rest = format!("{}{joint}{}", reference.name, reference.selector);
    Ok(match reference.host {
        None => format!("{registry}/{rest}"),
        Some(host) if host == registry => format!("{registry}/{rest}"),
        Some(host) if host.contains(':') => bail!(
            "{name}: a name with a port cannot be kept for another registry: give the image a name \
             without one after the file"
        ),
        Some(host) => format!("{registry}/{host}/{rest}"),
    })
}

impl Rm {
    async fn run(self) -> anyhow::Result<()> {
        let options = self.door.options()?;
        for name in &self.names {
            admin::remove(&self.door.registry, name, &options).await?;
            println!("{name}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_other_registries_are_kept_under_their_names() {
        let kept = |name: &str| place("127.0.0.1:5000", name).ok();
        let here = |rest: &str| Some(format!("127.0.0.1:5000/{rest}"));
        assert_eq!(kept("demo/x:v1"), here("demo/x:v1"));
        assert_eq!(kept("busybox"), here("busybox:latest"));
        assert_eq!(kept("ghcr.io/a/b:v1"), here("ghcr.io/a/b:v1"));
        assert_eq!(kept("127.0.0.1:5000/a:v1"), here("a:v1"));
        assert_eq!(kept("registry.test:5000/a:v1"), None);
        assert_eq!(kept("Not Valid"), None);
    }

    #[test]
    fn a_table_has_a_line_for_each_name() {
        let listed = |names: &[&str], fetched| Listed {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            digest: "sha256:0123456789abcdef".to_owned(),
            size: 1_500_000,
            fetched,
        };
        let text = table(&[
            listed(&["a@sha256:0123456789abcdef", "a:v1", "a:v2"], false),
            listed(&["docker.io/b@sha256:0123456789abcdef"], true),
        ]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], ["NAME", "DIGEST", "SIZE", "FROM"]);
        assert_eq!(lines[1], ["a:v1", "0123456789ab", "1.5MB", "push"]);
        assert_eq!(lines[2][0], "a:v2");
        assert_eq!(lines[3][3], "pull");
        assert_eq!(lines.len(), 4);
    }
}
