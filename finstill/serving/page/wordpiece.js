"use strict";

// A BERT tokenizer as tokenizer.json describes it: BertNormalizer, BertPreTokenizer, WordPiece (Schuster and Nakajima
// 2012, "Japanese and Korean Voice Search"), and a template of special tokens.
class WordPiece {
  constructor(description) {
    this.vocabulary = new Map(Object.entries(description.model.vocab));
    this.unknown = this.vocabulary.get(description.model.unk_token);
    this.prefix = description.model.continuing_subword_prefix;
    this.longestWord = description.model.max_input_chars_per_word;
    this.normalizer = description.normalizer;
    this.added = new Map((description.added_tokens || []).map((token) => [token.content, token.id]));
    [this.before, this.after] = WordPiece.specialTokens(description.post_processor);
  }

  static specialTokens(processor) {
    if (processor === null) return [[], []];
    if (processor.type === "BertProcessing") return [[processor.cls[1]], [processor.sep[1]]];
    const sides = [[], []];
    let side = 0;
    for (const part of processor.single) {
      if (part.Sequence) side = 1;
      else sides[side].push(...processor.special_tokens[part.SpecialToken.id].ids);
    }
    return sides;
  }

  // As finstill.corpus.text reads a text: NUL as a space, NFKC, what Python takes for white space folded.
  static fold(text) {
    const space = /[\t-\r\x1c-\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
    return text.replaceAll("\0", " ").normalize("NFKC").replace(space, " ").replace(/^ | $/g, "");
  }

  // Returns ids, special tokens included; for each the number of its word, or -1; and the words as they stand in text.
  encode(text) {
    const ids = [...this.before];
    const wordOf = this.before.map(() => -1);
    const words = [];
    for (const [piece, start] of this.split(WordPiece.fold(text))) {
      const pieces = this.added.has(piece) ? [this.added.get(piece)] : this.piecesOf(this.normalized(piece));
      if (pieces.length === 0) continue;
      ids.push(...pieces);
      wordOf.push(...pieces.map(() => words.length));
      words.push({ text: piece, start });
    }
    ids.push(...this.after);
    wordOf.push(...this.after.map(() => -1));
    return { ids, wordOf, words };
  }

  // Returns of a longer text its beginning: the special tokens after it stay, and words that are cut off go.
  cut({ ids, wordOf, words }, maxLength) {
    const kept = maxLength - this.after.length;
    const read = wordOf.slice(0, kept);
    return {
      ids: [...ids.slice(0, kept), ...this.after],
      wordOf: [...read, ...this.after.map(() => -1)],
      words: words.slice(0, Math.max(...read) + 1),
    };
  }

  // Yields each word and where it starts. Punctuation and, where the normalizer asks for it, each Chinese character are
  // words of their own; so are added tokens.
  *split(text) {
    const chinese =
      "\\u{4e00}-\\u{9fff}\\u{3400}-\\u{4dbf}\\u{20000}-\\u{2a6df}\\u{2a700}-\\u{2b73f}\\u{2b740}-\\u{2b81f}" +
      "\\u{2b920}-\\u{2ceaf}\\u{f900}-\\u{faff}\\u{2f800}-\\u{2fa1f}";
    const alone = "!-\\/:-@\\[-`\\{-~\\p{P}" + (this.normalizer.handle_chinese_chars ? chinese : "");
    const escaped = [...this.added.keys()].map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const word = new RegExp([...escaped, `[${alone}]`, `(?:(?!${escaped.join("|") || "$^"})[^ ${alone}])+`].join("|"), "gu");
    for (const match of text.matchAll(word)) yield [match[0], match.index];
  }

  normalized(word) {
    const { clean_text, lowercase, strip_accents } = this.normalizer;
    if (clean_text) word = word.replace(/[\p{C}\ufffd]/gu, "");
    if (strip_accents ?? lowercase) word = word.normalize("NFD").replace(/\p{Mn}/gu, "");
    // Character by character, as the original does: JavaScript writes a final sigma otherwise.
    return lowercase ? [...word].map((character) => character.toLowerCase()).join("") : word;
  }

  // Where accents go, the strokes of \u2260 \u226e \u226f go too, and what is left of them stands alone.
  piecesOf(word) {
    return word.split(/(?=[=<>])|(?<=[=<>])/).flatMap((part) => this.pieces(part));
  }

  // The longest pieces of the vocabulary from the left; a word that they do not cover is unknown as a whole.
  pieces(word) {
    const characters = [...word];
    if (characters.length > this.longestWord) return [this.unknown];
    const found = [];
    for (let start = 0; start < characters.length; ) {
      let end = characters.length;
      let id;
      for (; end > start; end--) {
        id = this.vocabulary.get((start ? this.prefix : "") + characters.slice(start, end).join(""));
        if (id !== undefined) break;
      }
      if (id === undefined) return [this.unknown];
      found.push(id);
      start = end;
    }
    return found;
  }
}
