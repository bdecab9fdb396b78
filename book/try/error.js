/* A file that cannot be read as an image. The message is one line: which file, what is wrong, the remedy. */

export class ImageError extends Error {
  constructor(name, words) {
    super(`${name}: ${words}`);
    this.name = "ImageError";
  }
}
