// Pictures are loaded when a reader comes near them; paper has no near.
addEventListener("beforeprint", () =>
  document.querySelectorAll("img[loading=lazy]").forEach((picture) => { picture.loading = "eager"; }));
