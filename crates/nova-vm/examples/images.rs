//! Makes artefacts without a daemon: `images setup DATA_DIR`, `images add DATA_DIR RUNTIME...`,
//! `images remove DATA_DIR RUNTIME`, `images builder DATA_DIR LANGUAGE...`, `images toolchain DATA_DIR LANGUAGE DIRECTORY`.
use nova_domain::RuntimeId;
use nova_vm::images::{Installer, KernelChoice, Progress};
use std::error::Error;
use std::path::Path;

struct Lines;

impl Progress for Lines {
    fn step(&self, what: &str) {
        eprintln!("  {what}");
    }

    fn percent(&self, _: f32) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["setup", data_dir] => {
            let installer = Installer::new(Path::new(data_dir));
            let kernel = installer.install_kernel(KernelChoice::Pinned, &Lines).await?;
            println!("{} {}", kernel.package, kernel.version);
            let firecracker = installer.install_firecracker(None, &Lines).await?;
            println!("firecracker {}", firecracker.version);
        }
        ["add", data_dir, runtimes @ ..] if !runtimes.is_empty() => {
            for runtime in runtimes {
                eprintln!("{runtime}");
                let installer = Installer::new(Path::new(data_dir));
                let record = installer.add_runtime(&RuntimeId::parse(runtime)?, &Lines).await?;
                println!(
                    "{} {} {} bytes",
                    record.image.id, record.image.version, record.image.size
                );
            }
        }
        ["remove", data_dir, runtime] => {
            let installer = Installer::new(Path::new(data_dir));
            installer.remove_runtime(&RuntimeId::parse(runtime)?).await?;
        }
        ["builder", data_dir, languages @ ..] if !languages.is_empty() => {
            for language in languages {
                let installer = Installer::new(Path::new(data_dir));
                let record = installer.add_builder(&RuntimeId::parse(language)?, &Lines).await?;
                println!("{} {} {} bytes", record.language, record.version, record.size);
            }
        }
        ["toolchain", data_dir, language, directory] => {
            let installer = Installer::new(Path::new(data_dir));
            installer.unpack_toolchain(language, Path::new(directory), &Lines).await?;
        }
        _ => {
            return Err(
                "images setup DATA_DIR | add DATA_DIR RUNTIME... | remove DATA_DIR RUNTIME \
                        | builder DATA_DIR LANGUAGE... | toolchain DATA_DIR LANGUAGE DIRECTORY"
                    .into(),
            );
        }
    }
    Ok(())
}
