//! Tells cargo that the crate embeds the runtimes: a new file there is not seen by itself.
fn main() {
    println!("cargo:rerun-if-changed=../../runtimes");
    println!("cargo:rerun-if-changed=../../kernel");
}
