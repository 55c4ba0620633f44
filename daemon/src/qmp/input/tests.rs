use serde_json::json;

use super::*;

fn values(input: &mut Input) -> Vec<Result<Value, String>> {
    std::iter::from_fn(|| input.next()).collect()
}

/// What comes of the bytes, which is the same if they come one by one.
fn of(bytes: &[u8]) -> Vec<Result<Value, String>> {
    let mut whole = Input::default();
    whole.push(bytes);
    let at_once = values(&mut whole);
    let mut pieces = Input::default();
    let mut piecewise = Vec::new();
    for byte in bytes {
        pieces.push(&[*byte]);
        piecewise.extend(values(&mut pieces));
    }
    assert_eq!(at_once, piecewise);
    at_once
}

fn error(what: &str) -> Result<Value, String> {
    Err(format!("JSON parse error, {what}"))
}

#[test]
fn values_may_follow_each_other_at_once_or_come_byte_by_byte() {
    let text = br#"{"execute":"stop"}{"execute":"cont","id":[1,"}"]}  [1]
        {"a":{"b":"\""}}true 'x'-1.5e1 null
"#;
    let expected = [
        json!({"execute": "stop"}),
        json!({"execute": "cont", "id": [1, "}"]}),
        json!([1]),
        json!({"a": {"b": "\""}}),
        json!(true),
        json!("x"),
        json!(-15.0),
        json!(null),
    ];
    assert_eq!(of(text), expected.map(Ok));
}

#[test]
fn strings_may_be_in_single_quotes() {
    let text = br#"{'execute':"a",'id':'}"\'\\'}{'b':'\n\u00e9'}{"it's":"\'"}'c'[]"#;
    let expected = [
        json!({"execute": "a", "id": "}\"'\\"}),
        json!({"b": "\n\u{e9}"}),
        json!({"it's": "'"}),
        json!("c"),
        json!([]),
    ];
    assert_eq!(of(text), expected.map(Ok));
}

#[test]
fn numbers_are_whole_if_they_fit_into_64_bits() {
    for (text, number) in [
        ("0", json!(0)),
        ("-0", json!(0)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("18446744073709551615", json!(u64::MAX)),
        ("18446744073709551616", json!(18_446_744_073_709_551_616.0)),
        ("1e3", json!(1000.0)),
        ("0.5E-1", json!(0.05)),
    ] {
        assert_eq!(of(format!("{text} ").as_bytes()), [Ok(number)], "{text}");
    }
    assert_eq!(of(b"1e400 "), [error("number out of range")]);
}

#[test]
fn characters_come_as_utf8_or_by_number() {
    let text = br#""\u00e9\ud83d\ude00\u0000\b\f\r\t\/" "#;
    assert_eq!(of(text), [Ok(json!("\u{e9}\u{1f600}\0\u{8}\u{c}\r\t/"))]);
    let text = "\"\u{e9}\u{20ac}\u{1f600}\u{7f}\"".as_bytes();
    assert_eq!(of(text), [Ok(json!("\u{e9}\u{20ac}\u{1f600}\u{7f}"))]);
    assert_eq!(of(b"\"\xc0\x80\""), [Ok(json!("\0"))]);
    for bytes in [
        b"\"\xc3(\"".as_slice(),
        b"\"\xed\xa0\x80\"",
        b"\"\xf4\x90\x80\x80\"",
        b"\"\xe2\x82\"",
        b"\"\xef\xbf\xbe\"",
        b"\"\xef\xb7\x90\"",
        b"\"\x80\"",
    ] {
        let expected = [error("invalid UTF-8 sequence in string")];
        assert_eq!(of(bytes), expected, "{bytes:?}");
    }
    for digits in ["d800", "dc00", "12", "", "ZZZZ", "fffe", "d800\\u0041"] {
        let text = format!("\"\\u{digits}\"");
        let shown: String = text.chars().skip(3).take(4).collect();
        let expected = format!("\\u{shown} is not a valid Unicode character");
        assert_eq!(of(text.as_bytes()), [error(&expected)]);
    }
    assert_eq!(of(br#""\x""#), [error("invalid escape sequence in string")]);
}

#[test]
fn what_is_wrong_is_said_in_qemus_words() {
    for (text, what) in [
        (r#"{"execute": foo}"#, "invalid keyword 'foo'"),
        (r#"{"a" 1}"#, "missing : in object pair"),
        (r#"{"a"}"#, "missing : in object pair"),
        (r#"{"a":}"#, "expecting value"),
        ("{,}", "expecting value"),
        ("[1,]", "expecting value"),
        (r#"{"a":1,}"#, "expecting value"),
        ("}", "expecting value"),
        ("[[[[}", "expecting value"),
        (r#"{"a":{]"#, "expecting value"),
        ("{1:2}", "key is not a string in object"),
        ("{null:1}", "key is not a string in object"),
        (r#"{"a":1 "b":2}"#, "expected separator in dict"),
        (r#"{"a":1]"#, "expected separator in dict"),
        ("{'a':0x10}", "expected separator in dict"),
        ("[1 2]", "expected separator in list"),
        ("[1}", "expected separator in list"),
        (r#"{"a":1,"b":2,"a":3}"#, "duplicate key"),
        ("truex ", "invalid keyword 'truex'"),
        ("NULL ", "stray 'N'"),
        ("// c", "stray '/'"),
        ("-x", "stray '-x'"),
        ("- 1", "stray '- '"),
        ("1.x", "stray '1.x'"),
        ("1e+}", "stray '1e+}'"),
        ("\0", "stray ''"),
        ("\"abc\n", "stray '\"abc\n'"),
    ] {
        assert_eq!(of(text.as_bytes()), [error(what)], "{text:?}");
    }
}

#[test]
fn it_goes_on_where_there_may_be_sense_again() {
    let value = || error("expecting value");
    assert_eq!(of(b"}}"), [value(), value()]);
    assert_eq!(of(b"@abc{}"), [error("stray '@'"), Ok(json!({}))]);
    assert_eq!(
        of(b"{\"a\":NaN}\n{}"),
        [error("stray 'N'"), value(), Ok(json!({}))]
    );
    assert_eq!(of(b"[01]"), [error("stray '01'"), value()]);
    assert_eq!(
        of(b"\xef\xbb\xbf[]"),
        [error("stray '\u{fffd}'"), Ok(json!([]))]
    );
    // What a client sends to be understood again, whatever was before.
    assert_eq!(
        of(b"{\"a\":['b\xff{}"),
        [error("stray ''b\u{fffd}'"), Ok(json!({}))]
    );
    assert_eq!(of(b"{'a': 'b\"}\n{}\n").len(), 2);
}

#[test]
fn a_value_too_long_is_refused_and_not_kept() {
    let mut input = Input::default();
    input.push(b"{\"execute\": \"");
    assert_eq!(input.next(), None);
    let mut results = Vec::new();
    for _ in 0..40 {
        input.push(&[b'x'; 64 << 10]);
        results.extend(values(&mut input));
        assert!(input.bytes.len() <= 64 << 10 && input.lexer.token().len() <= MAX_VALUE);
    }
    let refusal = || Err("JSON token size limit exceeded".to_owned());
    assert_eq!(results, [refusal()]);
    input.push(b"\n{}");
    assert_eq!(values(&mut input), [Ok(json!({}))]);
    // Many small ones are long, too.
    input.push(&[b"[".as_slice(), &b"1,".repeat(MAX_VALUE / 2)].concat());
    assert_eq!(values(&mut input), [refusal()]);
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    let depth = usize::try_from(MAX_NESTING).unwrap();
    let nested = |depth| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    // Half of what a thread of the runtime has.
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let thread = small.spawn(move || {
        let got = of(&nested(depth));
        assert_eq!(got.len(), 1);
        let value = got[0].clone().unwrap();
        assert_eq!(value.to_string().len(), 2 * depth);
        of(&nested(depth + 1))
    });
    let got = thread.unwrap().join().unwrap();
    assert_eq!(got[0], Err("JSON nesting depth limit exceeded".to_owned()));
    assert_eq!(got.len(), 2 + depth);
}
