// Arrow keys or swipes turn slides, down shows more figures of a section, O an overview; ?print-pdf is for paper.
Reveal.initialize({ width: 1280, height: 720, margin: 0.03, hash: true, center: false, display: "flex", slideNumber: "c/t", transition: "none" });
