//! Documents that follow a file.

use super::*;

#[test]
fn a_document_follows_its_file_until_a_person_puts_another_in_its_place() {
    let (_dir, mut memory) = memory();
    let (main, b) = (agent("main"), agent("b"));
    let put = |memory: &mut Memory, text: &str, changed: Option<i64>| {
        let file = changed.map(|changed| Mark { bytes: 1, changed });
        let document = Document {
            file,
            ..Document::new("MEMORY.md", text)
        };
        memory.put_documents(&main, &[document]).unwrap()
    };
    let changed = |memory: &Memory| -> Vec<i64> {
        let files = memory.files(&main).unwrap();
        files.values().map(|mark| mark.changed).collect()
    };
    assert_eq!(put(&mut memory, "zebra", Some(1)), 1);
    assert_eq!(put(&mut memory, "zebra", Some(2)), 0);
    assert_eq!(changed(&memory), [2]);
    assert_eq!(put(&mut memory, "giraffe", Some(3)), 1);
    assert_eq!(changed(&memory), [3]);
    assert!(memory.files(&b).unwrap().is_empty());
    put(&mut memory, "by hand", None);
    assert_eq!(changed(&memory), [0; 0]);
    put(&mut memory, "by hand", Some(4));
    assert!(memory.forget(&main, "MEMORY.md").unwrap());
    assert_eq!(changed(&memory), [0; 0]);
}
