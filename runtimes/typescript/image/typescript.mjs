// Node knows TypeScript by its extension only; a handler may have none. Files of the function that have no
// extension are TypeScript here.
import { registerHooks } from "node:module";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";

registerHooks({
  load(url, context, next) {
    const named = url.startsWith("file:///code/") && extname(fileURLToPath(url)) === "";
    return next(url, named ? { ...context, format: "module-typescript" } : context);
  },
});
