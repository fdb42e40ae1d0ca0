//! What fuzzing has found interesting, once more: inputs that reach different parts of a parser, and those that once
//! broke one.

#[test]
fn every_kept_input_is_taken() {
    for target in fuzz::TARGETS {
        let folder = fuzz::corpus(target.name);
        let files = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files {
            let file = file.expect("a readable folder").path();
            let bytes = std::fs::read(&file).expect("a readable file");
            // Which input it was: a panic says only where in the code.
            eprintln!("{}", file.display());
            (target.run)(&bytes);
            count += 1;
        }
        assert!(count >= 10, "{}: {count} inputs", folder.display());
    }
}

#[test]
fn an_unknown_target_is_named_with_those_there_are() {
    let error = fuzz::find("frames").expect_err("no such target");
    assert!(
        error.contains("`frames`") && error.contains("frame,"),
        "{error}"
    );
}
