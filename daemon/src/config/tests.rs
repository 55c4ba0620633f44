use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    File::parse(Path::new("/etc/vmd.toml"), text).map(Config::from)
}

/// The file that is shipped, its options no longer commented out.
pub(super) fn shipped() -> String {
    let text = include_str!("../../../deploy/vmd.toml");
    // A comment for people has a space after its sign.
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(option) if !option.starts_with(' ') => option.to_owned(),
        _ => line.to_owned(),
    };
    text.lines()
        .map(|line| uncommented(line) + "\n")
        .collect::<String>()
}

#[test]
fn the_shipped_file_has_every_option_with_its_default() {
    let commented = parse(include_str!("../../../deploy/vmd.toml")).unwrap();
    assert!(commented.listen.is_empty());
    let all = parse(&shipped()).unwrap();
    let default = Config::default();
    assert_eq!(all.events_kept, default.events_kept);
    assert_eq!(all.grace, default.grace);
    assert_eq!(all.grace_press_interval, default.grace_press_interval);
    assert_eq!(all.log_filter, default.log_filter);
    assert_eq!(all.log_format, default.log_format);
    assert_eq!(all.containment.seccomp, default.containment.seccomp);
    assert_eq!(
        all.containment.keep_capabilities,
        default.containment.keep_capabilities
    );
    assert_eq!(all.listen.len(), 3);
    assert!(all.tls.is_some());
}

#[test]
fn what_is_wrong_is_told_with_line_and_key() {
    for (text, says) in [
        ("[evnts]\n", "vmd.toml:1: evnts: unknown field `evnts`"),
        (
            "\n[events]\nkep = 3\n",
            "vmd.toml:3: events.kep: unknown field `kep`",
        ),
        (
            "[events]\nkept = \"x\"\n",
            "vmd.toml:2: events.kept: invalid type",
        ),
        (
            "[events]\nkept = -1\n",
            "vmd.toml:2: events.kept: invalid value",
        ),
        ("[events\n", "vmd.toml:1"),
        (
            "[log]\nformat = \"xml\"\n",
            "vmd.toml:2: log.format: unknown variant `xml`",
        ),
        (
            "[[listen]]\naddress = \"http://0.0.0.0:1\"\n",
            "vmd.toml:2: listen.address: 'http://0.0.0.0:1' is not a loopback address",
        ),
        (
            "[[listen]]\nmode = \"0660\"\n\naddress = \"http://127.0.0.1:1\"\n",
            "vmd.toml:4: listen.address: http://127.0.0.1:1 has no file",
        ),
        (
            "[[listen]]\naddress = \"unix:/s\"\nplaintext_role = \"admin\"\n",
            "vmd.toml:2: listen.address: unix:/s tells who connects",
        ),
        (
            "[[listen]]\naddress = \"https://0.0.0.0:1\"\n",
            "vmd.toml:2: listen.address: https://0.0.0.0:1 needs a section [tls]",
        ),
        (
            "[[listen]]\naddress = \"unix:/s\"\nmode = \"rw\"\n",
            "vmd.toml:3: listen.mode: 'rw' is no mode",
        ),
        (
            "[roles.admin]\nusers = [\"nobody-of-this-name\"]\n",
            "vmd.toml:2: roles.admin.users: this host has no user 'nobody-of-this-name'",
        ),
        (
            "[roles.admin]\ngroups = [0, 4294967296]\n",
            "vmd.toml:2: roles.admin.groups: 4294967296 is no group number",
        ),
        (
            "[paths]\nroots = [\"/a\", \"b\"]\n",
            "vmd.toml:2: paths.roots: 'b' is not an absolute path",
        ),
        (
            "[containment]\nseccomp = \"audit\"\n",
            "vmd.toml:2: containment.seccomp: invalid value: string \"audit\", expected true, false or \"log\"",
        ),
        (
            "[containment]\nkeep_capabilities = [\"root\"]\n",
            "vmd.toml:2: containment.keep_capabilities: there is no capability 'root'",
        ),
        (
            "[tls]\ncertificate = \"/c\"\n",
            "vmd.toml:1: tls: missing field `key`",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}\n{error}\n{says}");
    }
}

#[test]
fn landlock_comes_with_roots_unless_it_is_said() {
    for (text, expected) in [
        ("", false),
        ("[paths]\nroots = [\"/srv\"]\n", true),
        (
            "[paths]\nroots = [\"/srv\"]\n[containment]\nlandlock = false\n",
            false,
        ),
        ("[containment]\nlandlock = true\n", true),
    ] {
        assert_eq!(parse(text).unwrap().is_landlocked(), expected, "{text}");
    }
    let text =
        "[containment]\nseccomp = false\nkeep_capabilities = [\"CAP_CHOWN\", \"net_admin\"]\n";
    let containment = parse(text).unwrap().containment;
    assert_eq!(containment.seccomp, Seccomp::Off);
    assert_eq!(containment.kept().bits(), 1 | 1 << 12);
}

#[test]
fn the_command_line_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmd.toml");
    let text =
        "[[listen]]\naddress = \"unix:/a\"\n[events]\nkept = 5\n[shutdown]\ngrace_seconds = 7\n";
    fs::write(&path, text).unwrap();
    let mut source = Source {
        file: Some(path),
        ..Source::default()
    };
    let config = source.load().unwrap();
    assert_eq!(
        config.listen,
        [Listen::from("unix:/a".parse::<Endpoint>().unwrap())]
    );
    assert_eq!((config.events_kept, config.grace.as_secs()), (5, 7));
    source.overrides.listen = vec!["unix:/b".parse().unwrap()];
    source.overrides.events_kept = Some(6);
    let config = source.load().unwrap();
    assert_eq!(
        config.listen,
        [Listen::from("unix:/b".parse::<Endpoint>().unwrap())]
    );
    assert_eq!((config.events_kept, config.grace.as_secs()), (6, 7));
    source.overrides.listen = vec!["https://localhost:1".parse().unwrap()];
    let error = source.load().unwrap_err().to_string();
    assert!(error.contains("needs certificates"), "{error}");
}

#[test]
fn sockets_that_were_given_are_the_only_ones() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmd.toml");
    let text = "[[listen]]\naddress = \"unix:/a\"\n\n[[listen]]\naddress = \"http://127.0.0.1:1\"\nplaintext_role = \"viewer\"\n";
    fs::write(&path, text).unwrap();
    let source = Source {
        file: Some(path),
        overrides: Overrides {
            given: vec![
                "http://127.0.0.1:1".parse().unwrap(),
                "unix:/c".parse().unwrap(),
            ],
            listen: vec!["unix:/b".parse().unwrap()],
            ..Overrides::default()
        },
    };
    let config = source.load().unwrap();
    let addresses: Vec<_> = config
        .listen
        .iter()
        .map(|one| one.endpoint.to_string())
        .collect();
    assert_eq!(addresses, ["http://127.0.0.1:1", "unix:/c"]);
    assert_eq!(
        config.listen[0].plaintext_role,
        Some(Role::Viewer),
        "the file's"
    );
}
