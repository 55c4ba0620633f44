//! Templates, good and bad.

use super::{super::leaves::Register::*, *};
use crate::machine::cpu::{offered, testing};

fn parsed(text: &str) -> Result<CpuTemplate, String> {
    CpuTemplate::parse(text.as_bytes()).map_err(|error| error.to_string())
}

/// A template of one leaf with these modifiers.
fn one_leaf(leaf: &str, modifiers: &str) -> String {
    format!(
        r#"{{"cpuid_modifiers": [{{"leaf": "{leaf}", "subleaf": "0x0", "flags": 0, "modifiers": [{modifiers}]}}]}}"#
    )
}

fn register(name: &str, bitmap: &str) -> String {
    format!(r#"{{"register": "{name}", "bitmap": "{bitmap}"}}"#)
}

fn one_msr(addr: &str, bitmap: &str) -> String {
    format!(r#"{{"msr_modifiers": [{{"addr": "{addr}", "bitmap": "{bitmap}"}}]}}"#)
}

#[test]
fn the_example_of_firecracker_s_documentation_is_read() {
    let text = r#"{
        "kvm_capabilities": [],
        "cpuid_modifiers": [
          {
            "leaf": "0x1",
            "subleaf": "0x0",
            "flags": 0,
            "modifiers": [
              {
                "register": "eax",
                "bitmap": "0bxxxx000000000011xx00011011110010"
              }
            ]
          }
        ],
        "msr_modifiers": [
          {
            "addr": "0x10a",
            "bitmap": "0b0000000000000000000000000000000000000000000000000000000000000000"
          }
        ]
      }"#;
    let eax = RegisterMask {
        register: Eax,
        mask: 0x0fff_3fff,
        value: 0x0003_06f2,
    };
    let expected = CpuTemplate {
        leaves: vec![LeafMask {
            leaf: 1,
            subleaf: 0,
            registers: vec![eax],
        }],
        msrs: vec![MsrMask {
            index: 0x10a,
            mask: u64::MAX,
            value: 0,
        }],
    };
    assert_eq!(parsed(text), Ok(expected));
}

#[test]
fn everything_may_be_left_out() {
    let nothing = CpuTemplate {
        leaves: Vec::new(),
        msrs: Vec::new(),
    };
    assert_eq!(parsed("{}"), Ok(nothing));
    for leaf in ["0x1f", "31", "0b11111"] {
        let read = parsed(&one_leaf(leaf, "")).unwrap();
        assert_eq!((read.leaves[0].leaf, read.leaves[0].subleaf), (31, 0));
    }
}

#[test]
fn what_is_malformed_is_refused_with_its_place() {
    let good = register("eax", "0b1");
    for (text, says) in [
        (
            String::new(),
            "EOF while parsing a value at line 1 column 0",
        ),
        ("{".into(), "EOF while parsing an object at line 1 column 1"),
        ("[]".into(), "line 1: not a JSON object"),
        ("{} x".into(), "trailing characters at line 1 column 4"),
        ("7".into(), "not a JSON object"),
        (
            r#"{"reg_modifiers": []}"#.into(),
            "unknown field `reg_modifiers`, expected one of `cpuid_modifiers`, `msr_modifiers`, `kvm_capabilities` at line 1",
        ),
        (
            r#"{"kvm_capabilities": ["!56"]}"#.into(),
            "kvm_capabilities: not supported",
        ),
        (
            r#"{"cpuid_modifiers": [], "cpuid_modifiers": []}"#.into(),
            "duplicate field `cpuid_modifiers`",
        ),
        (
            r#"{"cpuid_modifiers": [{"leaf": 1}]}"#.into(),
            "invalid type: integer `1`, expected a string at line 1 column 31",
        ),
        (
            r#"{"cpuid_modifiers": [{"leaf": "1", "modifiers": []}]}"#.into(),
            "missing field `subleaf` at line 1",
        ),
        (
            one_leaf("0x", ""),
            r#"cpuid_modifiers[0].leaf: "0x" is not"#,
        ),
        (one_leaf("", ""), r#"cpuid_modifiers[0].leaf: "" is not"#),
        (
            one_leaf("+1", ""),
            r#"cpuid_modifiers[0].leaf: "+1" is not"#,
        ),
        (
            one_leaf("0x-1", ""),
            r#"cpuid_modifiers[0].leaf: "0x-1" is not"#,
        ),
        (
            one_leaf("0x100000000", ""),
            r#"cpuid_modifiers[0].leaf: "0x100000000" is not a number of 32 bits"#,
        ),
        (
            one_leaf("1", &register("rax", "0b1")),
            r#"cpuid_modifiers[0].modifiers[0].register: "rax" is none of eax"#,
        ),
        (
            one_leaf("1", &format!("{good}, {good}")),
            "cpuid_modifiers[0].modifiers[1].register: the register is given twice",
        ),
        (
            one_leaf("1", &register("eax", &format!("0b{}", "1".repeat(33)))),
            "cpuid_modifiers[0].modifiers[0].bitmap: more than 32 bits",
        ),
        (
            one_leaf("1", &register("eax", "0b12")),
            "cpuid_modifiers[0].modifiers[0].bitmap: character 4 is '2'",
        ),
        (
            one_msr("0x10a", "x"),
            r#"msr_modifiers[0].bitmap: "x" does not begin with 0b"#,
        ),
        (
            one_msr("0x10a", &format!("0b{}", "x".repeat(65))),
            "msr_modifiers[0].bitmap: more than 64 bits",
        ),
        (
            one_msr("ten", "0b1"),
            r#"msr_modifiers[0].addr: "ten" is not"#,
        ),
    ] {
        let error = parsed(&text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    assert!(CpuTemplate::parse(b"{\"\xff\": 1}").is_err(), "not UTF-8");
    assert!(CpuTemplate::parse("[".repeat(1 << 20).as_bytes()).is_err());
}

#[test]
fn nothing_is_given_twice_and_not_too_much() {
    let leaf = r#"{"leaf": "0x7", "subleaf": "1", "modifiers": []}"#;
    let again = r#"{"leaf": "7", "subleaf": "0x1", "modifiers": []}"#;
    assert_eq!(
        parsed(&format!(r#"{{"cpuid_modifiers": [{leaf}, {again}]}}"#)),
        Err("cpuid_modifiers[1]: leaf 0x7, subleaf 0x1 is given twice".to_owned())
    );
    let msr = r#"{"addr": "0x10a", "bitmap": "0b0"}"#;
    assert_eq!(
        parsed(&format!(r#"{{"msr_modifiers": [{msr}, {msr}]}}"#)),
        Err("msr_modifiers[1].addr: MSR 0x10a is given twice".to_owned())
    );
    let many = |field: &str, entry: &str| {
        parsed(&format!(
            r#"{{"{field}": [{}]}}"#,
            vec![entry; 257].join(",")
        ))
    };
    let error = many("msr_modifiers", msr).unwrap_err();
    assert_eq!(error, "msr_modifiers: 257 entries: at most 256");
    let error = many("cpuid_modifiers", leaf).unwrap_err();
    assert_eq!(error, "cpuid_modifiers: 257 entries: at most 256");
}

#[test]
fn a_vcpu_s_state_is_not_its_model() {
    for index in [
        0x10_u32,
        0x1b,
        0x6e0,
        0x808,
        0xc000_0080,
        0xc000_0100,
        0x4b56_4d01,
    ] {
        let error = parsed(&one_msr(&format!("{index:#x}"), "0b0")).unwrap_err();
        assert!(error.contains("a vCPU's state"), "{error}");
    }
    for index in [0x10a, 0xce, 0x1a0] {
        assert!(parsed(&one_msr(&format!("{index:#x}"), "0b0")).is_ok());
    }
}

#[test]
fn masks_clear_and_set_what_they_name_and_no_more() {
    let offers = offered(&testing::intel(), true);
    let mut model = offers.clone();
    // All but bit 3 of ECX as it is; a family of its own.
    let changes = [
        register("ecx", "0bxxxx_xxxx_0xxx"),
        register("eax", "0b0000_0110_1111_0001"),
    ];
    let template = parsed(&one_leaf("0x1", &changes.join(","))).unwrap();
    template.apply(&mut model, &offers).unwrap();
    let mut expected = offers.clone();
    expected.clear(1, 0, Ecx, 1 << 3);
    expected.get_mut(1, 0).unwrap().eax = offers.value(1, 0, Eax) & 0xffff_0000 | 0x06f1;
    assert_eq!(model, expected);
}

#[test]
fn leaves_and_features_that_the_host_lacks_are_refused() {
    let offers = offered(&testing::intel(), true);
    let apply = |text: &str| {
        let mut model = offers.clone();
        let result = parsed(text).unwrap().apply(&mut model, &offers);
        result.map_err(|error| error.to_string())
    };
    assert_eq!(
        apply(&one_leaf("0x8000001e", "")),
        Err("cpuid_modifiers[0]: this host does not offer leaf 0x8000001e, subleaf 0x0".to_owned())
    );
    // VMX (5) is what vmd hides, bit 16 nobody's; bit 0 is there.
    assert_eq!(
        apply(&one_leaf("0x1", &register("ecx", "0b1_xxxx_xxxx_xx1x_xxx1"))),
        Err(
            "cpuid_modifiers[0].modifiers[0].bitmap: leaf 0x1, subleaf 0x0: this host does not offer bit 5, 16"
                .to_owned()
        )
    );
    assert_eq!(apply(&one_leaf("0x1", &register("ecx", "0b1"))), Ok(()));
    // A number is taken as it is.
    let signature = register("eax", &format!("0b{}", "1".repeat(32)));
    assert_eq!(apply(&one_leaf("0x1", &signature)), Ok(()));
}

#[test]
fn a_model_s_hidden_bit_may_be_shown_if_the_host_has_it() {
    let offers = offered(&testing::intel(), true);
    let mut model = offers.clone();
    model.clear(1, 0, Ecx, 1 << 13);
    let cx16 = one_leaf("0x1", &register("ecx", "0b1x_xxxx_xxxx_xxxx"));
    let had = offers.value(1, 0, Ecx) & 1 << 13;
    parsed(&cx16).unwrap().apply(&mut model, &offers).unwrap();
    assert_eq!((model.value(1, 0, Ecx) & 1 << 13, had), (1 << 13, 1 << 13));
}
