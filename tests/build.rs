//! Says whether tests that need `/dev/kvm` are left out: with `VMD_TEST_NO_KVM=1` they are ignored, with the reason, and
//! each test binary's summary counts them.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(no_kvm)");
    println!("cargo::rerun-if-env-changed=VMD_TEST_NO_KVM");
    if std::env::var_os("VMD_TEST_NO_KVM").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=no_kvm");
    }
}
