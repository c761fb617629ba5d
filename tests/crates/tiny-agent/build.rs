//! Compiles the part that is written in C, as build scripts of real agents do.

fn main() {
    cc::Build::new().file("src/sum.c").compile("sum");
    println!("cargo:rerun-if-changed=src/sum.c");
}
