//! Writes the seeds of the targets into `corpus/TARGET` below the folder that is given.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "fuzz".to_owned());
    for (name, seeds) in eyot_apiserver::fuzz::targets() {
        let name = name.to_lowercase().replace(' ', "_");
        let corpus = Path::new(&folder).join("corpus").join(name);
        fs::create_dir_all(&corpus)?;
        for (index, seed) in seeds.iter().enumerate() {
            fs::write(corpus.join(format!("seed-{index}")), seed)?;
        }
    }
    Ok(())
}
