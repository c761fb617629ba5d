//! An agent that only says that it serves: what osbuilder's tests build with cargo, and boot.

mod version;

use std::ffi::CString;

extern "C" {
    fn tiny_sum(text: *const libc::c_char) -> u32;
}

#[cfg(feature = "seccomp")]
fn filter() -> String {
    use libseccomp::{ScmpAction, ScmpFilterContext, ScmpSyscall};
    let load = || -> Result<(), libseccomp::error::SeccompError> {
        let mut context = ScmpFilterContext::new(ScmpAction::Allow)?;
        context.add_rule(ScmpAction::Errno(libc::EPERM), ScmpSyscall::from_name("kexec_load")?)?;
        context.load()
    };
    load().map_or_else(|error| format!("no filter: {error}"), |()| "seccomp".to_string())
}

#[cfg(not(feature = "seccomp"))]
fn filter() -> String {
    "open".to_string()
}

fn main() {
    let text = CString::new(version::VERSION).expect("a version has no NUL");
    let sum = unsafe { tiny_sum(text.as_ptr()) };
    let policy = if cfg!(feature = "policy") { "policy" } else { "free" };
    println!(
        "tiny-agent {} serves: {}, {}, sum {}, pid {}",
        version::VERSION,
        filter(),
        policy,
        itoa::Buffer::new().format(sum),
        std::process::id()
    );
    if std::env::args().nth(1).as_deref() == Some("--once") {
        // An agent's tasks may panic without taking it along: the unwinder has to work, whatever the C library.
        let caught = std::panic::catch_unwind(|| panic!("on purpose")).is_err();
        println!("caught: {caught}");
        return;
    }
    loop {
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
}
